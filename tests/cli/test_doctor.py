"""`rewindctl doctor` says what there is, and makes nothing."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Cli
from torch import nn

from rewindctl.checks import diagnosis, steps
from rewindctl.checks.steps import step_text
from rewindctl.fused.pairs import missing_part
from rewindctl.models import models
from rewindctl.registry.delivery.outbox import Outbox
from rewindctl.registry.runs.opening import about_of
from rewindctl.training.kernel_key import key_here


def test_everything_is_named_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--device", "cpu", "--json")
    assert answer.code == 0
    topics = {finding["topic"]: finding["text"] for finding in json.loads(answer.out)}
    assert {"python", "packages", "device", "threads", "store", "data digits", "disk", "resume", "kept"} <= set(topics)
    assert "does not exist yet" in topics["store"]
    assert topics["step"].startswith("PyTorch's operations; kernels of our own: ")
    assert "possible" not in topics["step"], "no CPU runs them"
    assert topics["at once"].startswith("--jobs N: processes")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_there_answers(cli: Cli, store: Path) -> None:
    assert f"sqlite:///{store}: answers, 1 experiment: Default\n" in cli("doctor", "--device", "cpu").out
    assert cli("init", "--experiment", "paper").code == 0
    assert "answers, 2 experiments: Default, paper\n" in cli("doctor", "--device", "cpu").out


@pytest.mark.parametrize(
    ("arguments", "topic"),
    [
        (("--device", "cuda:7"), "device"),
        (("--device", "cpu", "--tracking-uri", "http://user:secret@127.0.0.1:9"), "store"),
        (("--device", "cpu", "--tracking-uri", "nowhere"), "store"),
    ],
)
def test_what_will_not_work_is_said_with_what_to_do(cli: Cli, arguments: tuple[str, ...], topic: str) -> None:
    answer = cli("doctor", *arguments)
    assert answer.code == 1
    assert f"{topic} will not work with this setup" in answer.err
    assert "->" in answer.out
    assert "secret" not in answer.out + answer.err


def test_the_step_of_a_device_is_named_with_what_was_found_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of networks of one's own how far there are kernels for them; what another device or version found is not said."""
    here = torch.device("cpu")
    assert step_text(here) == f"PyTorch's operations; kernels of our own: {missing_part(here)}"
    monkeypatch.setattr(steps, "missing_part", lambda device: "")
    possible = "PyTorch's operations; kernels of our own: possible (--update-step fused)"
    assert step_text(here).startswith(f"{possible}; not compared with PyTorch's here yet")
    kept = tmp_path / "state" / "rewindctl" / "fused_step.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({f"{key_here(here)}, fp32, 0": "", "another GPU, fp32, 1": "a wrong loss"}))
    assert step_text(here) == f"{possible}; compared with PyTorch's here for 1 kind of training: they agree"
    kept.write_text(json.dumps({f"{key_here(here)}, fp32, 0": "", f"{key_here(here)}, fp32, 1": "a wrong loss"}))
    assert step_text(here).endswith("here for 2 kinds of training: 1 not taken, since they make a wrong loss")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    monkeypatch.setitem(models._entries, "plain", lambda config: plain)
    assert "(--update-step fused), not for plain: its batch norms are not followed by" in step_text(here)


def test_each_gpu_has_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(diagnosis, "step_text", str)
    gpu = torch.device("cuda", 0)
    assert [one.topic for one in diagnosis._steps(gpu, "auto")] == ["step cuda:0", "step cuda:1"]
    assert [one.topic for one in diagnosis._steps(gpu, "cuda:0")] == ["step"]
    assert [one.text for one in diagnosis._steps(torch.device("cpu"), "cpu")] == ["cpu"]


def test_results_that_wait_for_their_server_are_counted_and_left_alone(cli: Cli, tmp_path: Path) -> None:
    def finding() -> dict[str, str]:
        answer = cli("doctor", "--device", "cpu", "--json")
        return next(found for found in json.loads(answer.out) if found["topic"] == "kept")

    assert finding()["advice"] == ""
    for number, uri in enumerate(["http://a:5000", "http://a:5000", "http://b:5000"]):
        Outbox.make(f"{number}" * 32, {"uri": uri, **about_of("f", "a run", forced=False)})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "results of 3 runs wait" in finding()["text"]
    assert "2 for http://a:5000, 1 for http://b:5000" in finding()["text"]
    assert "rewindctl recover" in finding()["advice"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
