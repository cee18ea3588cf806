"""A state that was not recorded is made again: the bytes of a run that recorded it, in a run of its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, Chain, Cli
from sealing import rewrite

from rewindctl.checks.verify import verify
from rewindctl.cli import run as run_command
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import FINAL, checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import ReplaySpec


@pytest.fixture(scope="module")
def recording(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The chain's baseline as a run that recorded every state."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('recording') / 'mlflow.db')}"
    points = ",".join(map(str, range(25)))
    recorded = (*TINY[:-4], "--rewind-points", points, "--evaluate-every", "5")
    assert run_command(["train-dense", *recorded, "--tracking-uri", uri, "--quiet"]) == 0
    return Registry(uri)


def digest(registry: Registry, run: RunRecord, iteration: int | None) -> str:
    return str(registry.manifest(run)[checkpoint_path(iteration)]["sha256"])


def test_what_is_recorded_and_how_often_it_is_evaluated_decide_no_byte(chain: Chain, recording: Registry) -> None:
    registry, (all_of_it,) = chain.registry(), recording.search(kind="dense")
    baseline = registry.get(chain.dense)
    assert all_of_it.params["evaluate_every"] != baseline.params["evaluate_every"]
    for iteration in (0, 6, 12, None):
        assert digest(recording, all_of_it, iteration) == digest(registry, baseline, iteration)
    assert (all_of_it.fingerprint, all_of_it.group) == (baseline.fingerprint, baseline.group)


def test_a_replayed_state_is_that_of_a_run_that_recorded_it(copied_chain: Chain, recording: Registry, cli: Cli) -> None:
    """From the nearest state: a recorded one, then one that was made again itself."""
    at, registry = ("--tracking-uri", copied_chain.uri), copied_chain.registry()
    (all_of_it,) = recording.search(kind="dense")
    for iteration, start in ((1, 0), (14, 12), (17, 14), (23, 17)):
        answer = cli("replay", "--parent", copied_chain.dense, "--iteration", str(iteration), *at)
        run = registry.get(answer.run_id)
        assert isinstance(run.spec, ReplaySpec)
        assert (run.kind, run.parent_id, run.dense_run_id) == ("replay", copied_chain.dense, copied_chain.dense)
        assert run.spec.from_iteration == start
        assert f"replays {iteration - start} iteration" in answer.err
        assert digest(registry, run, iteration) == digest(recording, all_of_it, iteration)
        assert verify(registry, run) == []
        again = cli("replay", "--parent", copied_chain.dense, "--iteration", str(iteration), *at)
        assert again.run_id == run.run_id
    recorded = cli("replay", "--parent", copied_chain.dense, "--iteration", "12", *at)
    assert recorded.run_id == copied_chain.dense, "what is recorded is not made again"


def test_rewinding_to_any_iteration_works_against_any_baseline(
    copied_chain: Chain, recording: Registry, cli: Cli
) -> None:
    line = ("--method", "weight_rewind", "--k", "13")
    ours = cli("retrain", "--parent", copied_chain.prune, *line, "--tracking-uri", copied_chain.uri)
    (all_of_it,) = recording.search(kind="dense")
    theirs = cli("retrain", "--parent", all_of_it.run_id, "--compression", "5", *line, "--tracking-uri", recording.uri)
    registry = copied_chain.registry()
    run, other = registry.get(ours.run_id), recording.get(theirs.run_id)
    (replayed,) = registry.search(kind="replay")
    assert run.tags[tag.WEIGHTS_FROM] == f"{replayed.run_id}@13"
    assert (run.fingerprint, run.group) == (other.fingerprint, other.group)
    assert digest(registry, run, None) == digest(recording, other, None)
    assert recording.search(kind="replay") == []
    assert cli("verify", "--all", "--tracking-uri", copied_chain.uri).code == 0


@pytest.mark.slow
def test_an_earlier_state_of_a_retraining_is_made_again_and_pruned(copied_chain: Chain, cli: Cli) -> None:
    at, registry = ("--tracking-uri", copied_chain.uri), copied_chain.registry()
    ended = registry.get(copied_chain.weight_rewind)
    answer = cli("prune", "--parent", ended.run_id, "--compression", "9", "--iteration", "10", *at)
    mask = registry.get(answer.run_id)
    (replayed,) = registry.search(kind="replay")
    assert replayed.parent_id == ended.run_id
    assert mask.tags[tag.WEIGHTS_FROM] == f"{replayed.run_id}@10"
    child = cli("retrain", "--parent", mask.run_id, "--method", "lr_rewind", "--iterations", "3", *at)
    assert registry.get(child.run_id).tags[tag.WEIGHTS_FROM] == f"{replayed.run_id}@10"
    assert cli("verify", "--all", *at).code == 0


@pytest.mark.slow
def test_a_bundle_takes_the_replay_that_a_run_started_from(copied_chain: Chain, cli: Cli, store: object) -> None:
    line = ("--method", "weight_rewind", "--k", "13", "--tracking-uri", copied_chain.uri)
    run = cli("retrain", "--parent", copied_chain.prune, *line).run_id
    cli("registry", "export", "one.bundle", "--run", run, "--tracking-uri", copied_chain.uri)
    assert cli("registry", "import", "one.bundle").code == 0
    there = Registry()
    assert sorted(one.kind for one in there.search()) == ["dense", "prune", "replay", "retrain"]
    (replayed,), (retrained,) = there.search(kind="replay"), there.search(kind="retrain")
    assert retrained.tags[tag.WEIGHTS_FROM] == f"{replayed.run_id}@13"
    assert cli("verify", "--all").code == 0
    assert cli("retrain", "--parent", retrained.parent_id or "", *line[:4]).run_id == retrained.run_id


@pytest.mark.parametrize("key", ["device", "torch", "cpu_capability"])
def test_bytes_of_another_machine_are_not_made_again(copied_chain: Chain, cli: Cli, key: str) -> None:
    """The environment of the run is edited with its digests, as if the run were of another machine."""
    registry = copied_chain.registry()
    dense = registry.get(copied_chain.dense)
    environment = json.loads(registry.artifact(dense, "environment.json").read_text())
    target = environment["packages"] if key == "torch" else environment
    target[key] = "another"
    rewrite(registry, dense, "environment.json", json.dumps(environment))
    at = ("--tracking-uri", copied_chain.uri)
    answer = cli("retrain", "--parent", copied_chain.prune, "--method", "weight_rewind", "--k", "13", *at)
    assert (answer.code, answer.out) == (2, "")
    assert f"cannot be recomputed here: {key} was another" in answer.err
    assert "recorded: 0, 6, 12, 24" in answer.err
    assert len(copied_chain.registry().search()) == 5


def test_a_replay_has_the_threads_of_its_training_and_leaves_those_of_the_process(
    copied_chain: Chain, cli: Cli
) -> None:
    before = torch.get_num_threads()
    registry = copied_chain.registry()
    dense = registry.get(copied_chain.dense)
    environment = json.loads(registry.artifact(dense, "environment.json").read_text())
    rewrite(registry, dense, "environment.json", json.dumps(environment | {"threads": before + 1}))
    answer = cli("replay", "--parent", dense.run_id, "--iteration", "13", "--tracking-uri", copied_chain.uri)
    made = json.loads(registry.artifact(registry.get(answer.run_id), "environment.json").read_text())
    assert made["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_replay_that_measures_something_else_is_no_replay(store: Path, cli: Cli) -> None:
    """Between a recorded state and the one wanted the training was evaluated: the replay must measure the same."""
    dense = cli("train-dense", *TINY[:-4], "--rewind-points", "6", "--evaluate-every", "4").run_id
    registry = Registry()
    path = registry.artifact(registry.get(dense), checkpoint_path(6))
    state = TrainState.load(path)
    next(iter(state.parameters.values())).mul_(1.001)
    state.save(Path("spoiled"))
    rewrite(registry, registry.get(dense), checkpoint_path(6), Path("spoiled").read_bytes())
    answer = cli("replay", "--parent", dense, "--iteration", "10")
    assert (answer.code, answer.out) == (1, "")
    assert "differs from its training: at iteration 8 the test loss is" in answer.err
    (run,) = registry.search(kind="replay")
    assert run.status == "FAILED"


def test_a_checkpoint_of_another_iteration_is_not_taken(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    dense = registry.get(copied_chain.dense)
    other = registry.artifact(dense, checkpoint_path(6)).read_bytes()
    rewrite(registry, dense, checkpoint_path(12), other)
    answer = cli("replay", "--parent", dense.run_id, "--iteration", "20", "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert "the checkpoint of iteration 12" in answer.err


def test_continued_batches_are_those_after_the_last_that_the_pruned_network_saw(copied_chain: Chain, cli: Cli) -> None:
    at, registry = ("--tracking-uri", copied_chain.uri), copied_chain.registry()
    line = ("--method", "weight_rewind", "--k", "6", *at)
    runs = {"replayed": registry.get(copied_chain.weight_rewind)}
    answer = cli("retrain", "--parent", copied_chain.prune, *line, "--data-order", "continued")
    runs["continued"] = registry.get(answer.run_id)
    ended = {name: TrainState.load(registry.artifact(run, FINAL)) for name, run in runs.items()}
    assert {name: state.data_position for name, state in ended.items()} == {"replayed": 24, "continued": 24 + 18}
    assert {name: run.params["data_order"] for name, run in runs.items()} == {name: name for name in runs}
    assert runs["continued"].group != runs["replayed"].group
    mask = cli("prune", "--parent", answer.run_id, "--compression", "9", *at).run_id
    second = registry.get(cli("retrain", "--parent", mask, *line, "--data-order", "continued").run_id)
    assert TrainState.load(registry.artifact(second, FINAL)).data_position == 24 + 18 + 18
