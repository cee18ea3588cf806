"""The precision of a training: recorded, asked for again, and kept by a run that is gone on with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Cli

from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.training.records import ResumePoint


def digest(store: Path, run: RunRecord) -> str:
    return str(Registry(f"sqlite:///{store}").manifest(run)["checkpoints/final.safetensors"]["sha256"])


@pytest.mark.slow
def test_a_run_is_found_by_the_precision_asked_for(cli: Cli, store: Path) -> None:
    registry = Registry(f"sqlite:///{store}")

    def made(*options: str) -> RunRecord:
        return registry.get(cli("train-dense", *TINY, *options).run_id)

    rounded = made("--precision", "bf16")
    assert (rounded.tags[tag.PRECISION], rounded.tags[tag.DETERMINISTIC]) == ("bf16", "True")
    assert made().run_id == rounded.run_id, "any is right for auto"
    exact = made("--precision", "fp32", "--no-deterministic")
    assert (exact.tags[tag.PRECISION], exact.tags[tag.DETERMINISTIC]) == ("fp32", "False")
    assert exact.fingerprint == rounded.fingerprint
    assert digest(store, exact) != digest(store, rounded)
    assert made("--precision", "fp32").run_id == exact.run_id
    assert made("--precision", "bf16").run_id == rounded.run_id
    pruned = cli("prune", "--parent", exact.run_id, "--compression", "2").run_id
    for precision in ("fp32", "bf16"):
        answer = cli(
            "retrain", "--parent", pruned, "--method", "lr_rewind", "--iterations", "2", "--precision", precision
        )
        assert registry.get(answer.run_id).tags[tag.PRECISION] == precision
    assert len(registry.search(kind="retrain")) == 2


def test_a_small_network_on_small_images_is_trained_in_fp32(cli: Cli, store: Path) -> None:
    run = Registry(f"sqlite:///{store}").get(cli("train-dense", *TINY).run_id)
    assert run.tags[tag.PRECISION] == "fp32"


def test_an_interrupted_run_keeps_its_precision(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, command = f"sqlite:///{store}", ("train-dense", *TINY, "--checkpoint-every", "0")
    kept = RunObserver.resumable

    def interrupted(self: RunObserver, make: Callable[[], ResumePoint]) -> None:
        kept(self, make)
        if make().state.iteration:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "resumable", interrupted)
        assert cli(*command, "--precision", "bf16").code == 130
    (left,) = Registry(uri).search()
    answer = cli(*command)
    assert answer.run_id == left.run_id
    assert "from iteration 12" in answer.err
    gone_on = Registry(uri).get(left.run_id)
    assert gone_on.tags[tag.PRECISION] == "bf16"
    unbroken = cli(*command, "--precision", "bf16", "--force").run_id
    assert unbroken != left.run_id
    assert digest(store, Registry(uri).get(unbroken)) == digest(store, gone_on)


@pytest.mark.slow
def test_an_interrupted_run_of_another_precision_is_left_alone(
    cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: RunObserver, make: Callable[[], ResumePoint]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "resumable", interrupted)
        assert cli("train-dense", *TINY, "--precision", "bf16").code == 130
    registry = Registry(f"sqlite:///{store}")
    (left,) = registry.search()
    run = registry.get(cli("train-dense", *TINY, "--precision", "fp32").run_id)
    assert (run.tags[tag.PRECISION], registry.get(left.run_id).status) == ("fp32", "KILLED")


def test_an_unknown_precision_leaves_no_store(cli: Cli, tmp_path: Path) -> None:
    answer = cli("--tracking-uri", f"sqlite:///{tmp_path}/none.db", "train-dense", *TINY, "--precision", "fp16")
    assert answer.code == 2
    assert "unknown precision 'fp16'" in answer.err
    assert not (tmp_path / "none.db").exists()
