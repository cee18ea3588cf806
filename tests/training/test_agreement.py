"""Kernels of our own train only where they make the update that PyTorch's operations make."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import SETTINGS, Keeper

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.trials import FusedTrials
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.agreement import disagreement
from rewindctl.training.fused_step import FusedStepper
from rewindctl.training.kernels import reproducible
from rewindctl.training.loop import train
from rewindctl.training.records import TrainResult

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHORT = replace(SETTINGS, batch_size=6, iterations=2, evaluate_every=1, checkpoint_at=(), step="fused")


@pytest.fixture(scope="module")
def data() -> DeviceData:
    """Few test images: evaluating is not what is tried here."""
    whole = DeviceData.upload(load_dataset("digits", None), DEVICE)
    return replace(whole, test_images=whole.test_images[:20], test_labels=whole.test_labels[:20])


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with reproducible(DEVICE, deterministic=True):
        yield tmp_path / "rewindctl" / "fused_step.json"


def network() -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)


def initial() -> TrainState:
    return TrainState.initial(network())


def trained(data: DeviceData, step: str) -> tuple[TrainResult, Keeper]:
    keeper = Keeper()
    return train(network(), data, replace(SHORT, step=step), initial(), keeper), keeper  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_training_is_that_of_pytorchs_operations(data: DeviceData, own_folder: Path) -> None:
    """States, evaluations and losses to rounding; compared before it, and that is kept."""
    (found, keeper), (wanted, usual) = trained(data, "fused"), trained(data, "pytorch")
    assert (found.step, found.note, wanted.step) == ("fused", "", "pytorch")
    for name, value in wanted.state.parameters.items():
        torch.testing.assert_close(found.state.parameters[name], value, rtol=1e-4, atol=1e-6)
    for one, other in zip(keeper.evaluations, usual.evaluations, strict=True):
        assert (one.iteration, one.lr, one.test_accuracy) == (other.iteration, other.lr, other.test_accuracy)
        assert one.test_loss == pytest.approx(other.test_loss, rel=1e-4)
        assert one.train_loss == (other.train_loss and pytest.approx(other.train_loss, rel=1e-4))
    kept = json.loads(own_folder.read_text())
    assert list(kept.values()) == [""]
    # What is kept is believed, and gone on with from a point between to the same bytes.
    own_folder.write_text(json.dumps(dict.fromkeys(kept, "")))
    resumed = train(network(), data, SHORT, initial(), Keeper(), resume=keeper.points[1])
    assert all(torch.equal(value, found.state.parameters[name]) for name, value in resumed.state.parameters.items())


@pytest.mark.parametrize("left_out", ["blocks.1.norm1 back", "head"])
def test_a_wrong_kernel_is_seen_and_not_trained_with(
    data: DeviceData, own_folder: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """One that does nothing on this device: PyTorch's operations make the training, and it says why."""

    def run(self: FusedTrials) -> None:
        for launch in self.launches:
            if launch.name != left_out:
                launch()

    monkeypatch.setattr(FusedTrials, "run", run)
    why = disagreement(FusedStepper, network(), data, SHORT, initial(), None)
    assert "PyTorch's" in why
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(own_folder.parents[1]))
    found, _ = trained(data, "fused")
    assert found.step == "pytorch"
    assert why in found.note


def test_a_spoiled_file_of_what_was_found_is_made_anew(data: DeviceData, own_folder: Path) -> None:
    own_folder.parent.mkdir(parents=True)
    own_folder.write_text("{")
    assert disagreement(FusedStepper, network(), data, SHORT, initial(), None) == ""
    assert len(json.loads(own_folder.read_text())) == 1


def test_a_kernel_that_cannot_be_started_is_no_end(
    data: DeviceData, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and asked again next time."""

    def run(self: FusedTrials) -> None:
        raise RuntimeError("no kernel image is available\nand more")

    monkeypatch.setattr(FusedTrials, "run", run)
    found, _ = trained(data, "fused")
    assert (found.step, found.note) == (
        "pytorch",
        "on this device they make an error (RuntimeError: no kernel image is available)",
    )
    assert not own_folder.exists()
