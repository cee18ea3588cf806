"""What the Ray engine refuses, counts and hands on, without a cluster."""

import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewindctl import __version__
from rewindctl.arithmetic import Arithmetic
from rewindctl.datasets import load_dataset
from rewindctl.engines.contract import Task
from rewindctl.engines.ray_cluster import RayCluster, settings
from rewindctl.engines.ray_host import HostPlace, LaneHost
from rewindctl.engines.ray_lanes import LaneHosts
from rewindctl.engines.ray_nodes import RayNode, check_resources, check_store
from rewindctl.engines.ray_tasks import StageTasks
from rewindctl.engines.ray_worker import NodeCheck, TaskContext, look, place_of
from rewindctl.engines.work import WorkerConfig
from rewindctl.errors import UsageError
from rewindctl.pipeline import RunPolicy

HERE = socket.gethostname()
SQLITE, LOOPBACK, SERVER = "sqlite:////srv/mlflow.db", "http://localhost:5000", "http://tracking:5000"


def node(address: str = "10.0.0.1", cpus: float = 4, gpus: float = 0, host: str = HERE) -> RayNode:
    return RayNode("id", address, host, cpus, gpus)


ONE, TWO = [node(), node()], [node("10.0.0.1"), node("10.0.0.2")]
ELSEWHERE = [node(host="another")]


@pytest.mark.parametrize("uri", [SQLITE, LOOPBACK, SERVER])
def test_one_machine_may_have_any_store_however_many_nodes(uri: str) -> None:
    check_store(ONE, uri)


@pytest.mark.parametrize("nodes", [TWO, ELSEWHERE])
@pytest.mark.parametrize("uri", [SQLITE, "file:///srv/runs", LOOPBACK, "http://127.0.0.1:5000", "http://[::1]:5000"])
def test_what_other_machines_cannot_reach_is_refused_by_name(nodes: list[RayNode], uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_store(nodes, uri)
    assert uri in caught.value.message
    assert "--tracking-uri http://HOST:PORT" in caught.value.hint


@pytest.mark.parametrize("nodes", [TWO, ELSEWHERE])
def test_a_server_serves_several_machines(nodes: list[RayNode]) -> None:
    check_store(nodes, SERVER)
    check_store(nodes, "https://user:secret@tracking/mlflow")


def test_a_refused_store_is_named_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        check_store(TWO, "postgresql://user:s3cret@db/runs")
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("there", "asked", "count"),
    [
        ((4, 0), (1, 0), 4),
        ((4, 0), (0.5, 0), 8),
        ((4, 0), (8, 0), 0),
        ((1, 0), (0.1, 0), 10),
        ((16, 2), (1, 1), 2),
        ((16, 2), (1, 0.25), 8),
        ((16, 2), (1, 0.4), 4),  # two to each GPU: the fifth would span both
        ((16, 3), (1, 2), 1),
        ((3, 2), (1, 0.25), 3),
        ((16, 0), (1, 0.5), 0),
    ],
)
def test_a_node_holds_what_its_cores_and_its_gpus_both_have_room_for(
    there: tuple[float, float], asked: tuple[float, float], count: int
) -> None:
    assert node(cpus=there[0], gpus=there[1]).holds(*asked) == count


@pytest.mark.parametrize(
    ("cpus", "gpus", "words"),
    [
        (5, 0, "--cpus 5: .* the largest has 4 CPUs"),
        (1, 3, "--cpus 1 --gpus 3: .* 4 CPUs and 2 GPUs"),
        (5, 1, "--cpus 5 --gpus 1"),
    ],
)
def test_what_no_node_has_is_refused_with_what_the_largest_has(cpus: float, gpus: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_resources([node(cpus=2), node(cpus=4, gpus=2)], cpus, gpus)


def test_gpus_on_a_cluster_without_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--gpus 0.25: the Ray cluster has no GPU"):
        check_resources([node()], 1, 0.25)


@pytest.mark.parametrize(
    ("given", "visible", "place"),
    [
        ([0], None, 0),
        ([3], None, 3),
        (["3"], "2,3", 1),
        ([2, 1], None, 1),
        (["GPU-b"], "GPU-a,GPU-b", 1),
        ([], None, 0),
    ],
)
def test_the_gpu_that_ray_gave_is_found_among_those_torch_sees(
    given: list[int | str], visible: str | None, place: int
) -> None:
    assert place_of(given, visible) == place


@pytest.mark.parametrize(
    ("device", "cpus", "gpus", "words"),
    [
        ("cpu", 0, None, "--cpus 0"),
        ("cpu", None, 1.5, "--gpus 1.5"),
        ("cpu", None, -1, "--gpus -1"),
        ("cuda:1", None, None, "--device cuda:1"),
    ],
)
def test_amounts_that_no_stage_can_have_are_refused(
    device: str, cpus: float | None, gpus: float | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        RayCluster(WorkerConfig(SERVER, "x", device), None, None, cpus, gpus)


@pytest.mark.parametrize(
    ("lanes", "gpus", "words"), [(0, None, "--lanes 0 is not above 0"), (4, 0.25, "--lanes 4 with --gpus 0.25")]
)
def test_lanes_that_no_process_can_have_are_refused(lanes: int, gpus: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RayCluster(WorkerConfig(SERVER, "x"), None, None, None, gpus, lanes)


@pytest.mark.parametrize(
    ("device", "gpus", "lanes", "step", "kind"),
    [
        ("auto", 1, None, "fused", LaneHosts),
        ("auto", 1, None, "auto", StageTasks),  # each would take the memory of a whole training
        ("cuda", 2, 4, "auto", LaneHosts),
        ("cpu", 0, 2, "auto", LaneHosts),
        ("auto", 1, 1, "fused", StageTasks),
        ("auto", 0.25, None, "fused", StageTasks),
        ("cpu", 0, None, "auto", StageTasks),
        ("cpu", 1, None, "fused", StageTasks),  # the GPU only says where
    ],
)
def test_a_whole_gpu_has_lanes_of_a_fused_step_and_all_else_where_they_are_asked_for(
    device: str, gpus: float, lanes: int | None, step: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(StageTasks, "_start_progress", lambda tasks: None)
    site = WorkerConfig(SERVER, "x", device, policy=RunPolicy(arithmetic=Arithmetic(step=step)))
    cluster = RayCluster(site, None, None, None, gpus, lanes)
    stages = cluster._stages_in(TaskContext(site, gpus, {}), {"num_cpus": 1, "num_gpus": gpus})
    assert isinstance(stages, kind)


def test_a_process_without_its_gpu_answers_each_stage_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    host = LaneHost(TaskContext(WorkerConfig(SERVER, "x"), 1, {}), None)
    assert host.begin() == HostPlace("here", 1)
    (answer,) = host.turn([Task("key", "{}", None)], 0).answers
    assert (answer.key, answer.crashed, answer.hint) == ("key", False, "check the driver, or run with --gpus 0")
    assert "torch does not see" in answer.message
    host.close()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="the Ray engine needs ray") as caught:
        RayCluster(WorkerConfig(SERVER, "x"), None, None, None, None)
    assert caught.value.hint == "pip install 'rewindctl[ray]'"


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999", "ray://host", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="is not the address of a Ray cluster"):
        RayCluster(WorkerConfig(SERVER, "x"), None, address, None, None).check({})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"nothing": ""}, "'nothing'"),
        ({"digits": "0" * 64}, "'digits' is .* here, 000000000000 in the plan"),
    ],
)
def test_a_node_says_what_is_wrong_with_its_data(store: Path, data: dict[str, str], words: str) -> None:
    seen = look(TaskContext(WorkerConfig(f"sqlite:///{store}", "x", "cpu"), 0, {}), data)
    assert seen.version == __version__
    assert re.search(words, seen.message)
    assert seen.hint


def test_a_node_that_has_everything_says_nothing(store: Path) -> None:
    assert look(
        TaskContext(WorkerConfig(f"sqlite:///{store}", "x", "cpu"), 0, {}), {"digits": load_dataset("digits").digest}
    ) == NodeCheck(__version__)


def test_a_node_that_cannot_reach_the_server_says_so() -> None:
    seen = look(TaskContext(WorkerConfig("http://127.0.0.1:9", "x", "cpu"), 0, {}), {})
    assert "http://127.0.0.1:9 does not answer" in seen.message


def test_workers_reach_the_server_as_the_command_does() -> None:
    environment = {
        "MLFLOW_TRACKING_TOKEN": "t",
        "REWINDCTL_DATA": "/data",
        "MLFLOW_RUN_ID": "the project's",
        "HOME": "/root",
    }
    assert settings(environment) == {"MLFLOW_TRACKING_TOKEN": "t", "REWINDCTL_DATA": "/data"}
