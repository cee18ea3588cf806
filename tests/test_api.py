"""The Python API: the same runs as the command line's, given back as plain objects."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Chain, Cli
from torch import Tensor, nn

import rewindctl
from rewindctl import (
    Run,
    compare,
    iterate,
    list_runs,
    load_mask,
    load_model,
    open_run,
    prune,
    retrain,
    train_dense,
    verify,
)
from rewindctl.datasets import datasets, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import RegistryError, RewindError, UsageError
from rewindctl.models import models
from rewindctl.registry import Registry
from rewindctl.specs import DenseSpec, RetrainSpec
from rewindctl.training.loop import evaluate

TINY_OPTIONS: dict[str, Any] = {
    "iterations": 24,
    "batch_size": 32,
    "evaluate_every": 12,
    "rewind_points": (6, 12),
}
STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")


def test_the_names_are_public_and_importing_the_package_is_light() -> None:
    for name in rewindctl.__all__:
        assert getattr(rewindctl, name).__doc__
    assert set(rewindctl.__all__) <= set(dir(rewindctl))
    with pytest.raises(AttributeError, match="no attribute 'lottery'"):
        rewindctl.lottery  # noqa: B018
    heavy = "import sys, rewindctl; print({'torch', 'mlflow', 'pandas', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The same runs as the command line's


def test_what_the_command_line_made_is_reused(chain: Chain) -> None:
    before = len(chain.registry().search())
    dense = train_dense("resnet8", "digits", seed=0, **TINY_OPTIONS, tracking_uri=chain.uri)
    mask = prune(dense, compression=5)
    found = [
        retrain(mask, "finetune", update_step="pytorch", compile=True),
        retrain(mask, "weight_rewind", k=6),
        retrain(mask.run_id, "lr_rewind", tracking_uri=chain.uri),
    ]
    assert [run.run_id for run in (dense, mask, *found)] == [getattr(chain, stage) for stage in STAGES]
    assert retrain(dense, "lr_rewind", sparsity=mask.spec.sparsity) == found[2]  # type: ignore[union-attr]
    assert len(chain.registry().search()) == before


def test_what_is_made_here_is_reused_by_the_command_line(
    store: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = train_dense("resnet8", "digits", seed=1, **TINY_OPTIONS)
    levels = iterate(dense, "lr_rewind", step=0.5, until=0.75, iterations=3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert cli("train-dense", *TINY, "--seed", "1").run_id == dense.run_id
    line = ("--method", "lr_rewind", "--step", "0.5", "--until", "0.75", "--iterations", "3")
    assert cli("iterate", "--parent", dense.run_id, *line).out.split() == [run.run_id for run in levels]
    assert len(Registry().search()) == 5
    again = train_dense("resnet8", "digits", seed=1, **TINY_OPTIONS, progress=True)
    assert again == dense
    assert "reused" in capsys.readouterr().err
    assert train_dense("resnet8", "digits", seed=1, **TINY_OPTIONS, force=True) != dense


def test_momentum_reaches_the_optimiser_of_each_retraining(copied_chain: Chain, cli: Cli) -> None:
    mask = open_run(copied_chain.prune, tracking_uri=copied_chain.uri)
    calm = retrain(mask, "finetune", iterations=3, momentum=0.5)
    (level,) = iterate(mask.parent, "finetune", step=0.8, until=0.8, iterations=3, momentum=0.5)  # type: ignore[arg-type]
    assert (calm.params["momentum"], level.params["momentum"]) == ("0.5", "0.5")
    line = ("--method", "finetune", "--iterations", "3", "--momentum", "0.5", "--tracking-uri", copied_chain.uri)
    assert cli("retrain", "--parent", mask.run_id, *line).run_id == calm.run_id
    walk = ("iterate", "--parent", copied_chain.dense, "--step", "0.8", "--until", "0.8")
    assert cli(*walk, *line).run_id == level.run_id


# What comes back


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_has_the_accuracy_of_its_run(chain: Chain, stage: str) -> None:
    run = open_run(getattr(chain, stage), tracking_uri=chain.uri)
    network = run.model()
    assert isinstance(network, nn.Module)
    assert not network.training
    parameters = dict(network.named_parameters())
    for name, kept in run.mask().items():
        assert kept.dtype == torch.bool
        assert not parameters[name][~kept].any()
    data = DeviceData.upload(load_dataset("digits"), torch.device("cpu"))
    _, accuracy = evaluate(network.to(memory_format=torch.channels_last), data)  # type: ignore[arg-type]
    assert accuracy == run.metrics["test_accuracy"]


def test_a_mask_is_that_of_the_prune_run_and_a_dense_run_has_none(chain: Chain) -> None:
    own, inherited = (load_mask(run, tracking_uri=chain.uri) for run in (chain.prune, chain.lr_rewind))
    assert list(own) == list(inherited)
    assert all(torch.equal(mask, inherited[name]) for name, mask in own.items())
    kept = sum(int(mask.sum()) for mask in own.values())
    assert kept == open_run(chain.prune, tracking_uri=chain.uri).metrics["nonzero_kernel_parameters"]
    assert load_mask(chain.dense, tracking_uri=chain.uri) == {}


def test_a_run_leads_to_its_relatives(chain: Chain) -> None:
    mask = open_run(chain.prune[:8], tracking_uri=chain.uri)
    assert mask.parent == open_run("models:/resnet8-digits-dense@seed-0", tracking_uri=chain.uri)
    assert mask.parent is not None
    assert mask.parent.parent is None
    assert mask.parent.children == [mask]
    assert [child.run_id for child in mask.children] == [chain.finetune, chain.lr_rewind, chain.weight_rewind]
    assert len({mask, open_run(chain.prune, tracking_uri=chain.uri)}) == 1


def test_a_run_is_read_only_and_holds_what_the_registry_has(chain: Chain) -> None:
    run = open_run(chain.weight_rewind, tracking_uri=chain.uri)
    record = chain.registry().get(chain.weight_rewind)
    assert (run.kind, run.status, run.name, run.fingerprint) == ("retrain", "FINISHED", record.name, record.fingerprint)
    run.metrics["test_accuracy"] = 2.0
    run.params.clear()
    assert (run.metrics, run.params) == (record.metrics, record.params)
    with pytest.raises(AttributeError):
        run.record = record  # type: ignore[misc]
    assert isinstance(run.spec, RetrainSpec)
    assert run.spec.k == 6
    assert repr(run) == f"Run('{run.run_id}', '{run.name}', FINISHED)"


def test_history_is_a_frame_by_iteration(chain: Chain) -> None:
    run = open_run(chain.lr_rewind, tracking_uri=chain.uri)
    frame = run.history()
    assert list(frame.columns) == ["iteration", "test_accuracy"]
    assert list(frame["iteration"]) == [0, 12, 24]
    assert frame["test_accuracy"].iloc[-1] == run.metrics["test_accuracy"]
    with pytest.raises(UsageError, match="has no metric 'accuracy'"):
        run.history("accuracy")


def test_files_are_those_of_the_manifest_and_read_verified(chain: Chain) -> None:
    run = open_run(chain.prune, tracking_uri=chain.uri)
    files = run.files()
    assert {"mask/mask.safetensors", "mask/layers.csv", "spec.json"} <= set(files)
    assert all(run.file(path).stat().st_size == size for path, size in files.items())
    with pytest.raises(RegistryError, match="has no mask/other"):
        run.file("mask/other")


def test_runs_are_listed_as_the_command_line_lists_them(chain: Chain, cli: Cli) -> None:
    for options, line in (
        ({}, ()),
        ({"kind": "retrain", "where": "method!=finetune"}, ("--kind", "retrain", "--where", "method!=finetune")),
        ({"method": "lr_rewind"}, ("--method", "lr_rewind")),
    ):
        printed = cli("list", *line, "--tracking-uri", chain.uri).out.splitlines()
        found = list_runs(**options, tracking_uri=chain.uri)  # type: ignore[arg-type]
        assert [run.run_id for run in found] == [row.split()[0] for row in printed]


def test_a_comparison_has_a_row_a_result_and_a_row_a_cell(chain: Chain) -> None:
    made = compare(tracking_uri=chain.uri)
    assert set(made.runs["run_id"]) == {chain.dense, chain.finetune, chain.weight_rewind, chain.lr_rewind}
    assert set(made.cells["method"]) == {"none", "finetune", "weight_rewind", "lr_rewind"}
    assert set(made.cells["n"]) == {1}
    assert len(compare(model="wrn16_8", tracking_uri=chain.uri).runs) == 0
    best = compare(accuracy="best", tracking_uri=chain.uri).cells
    assert bool((best["median"] >= made.cells["median"]).all())


# Wrong requests


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda uri: train_dense("resnet9", "digits", tracking_uri=uri), "resnet9 has no depth 6n"),
        (
            lambda uri: train_dense("resnet8", "digits", iterations=0, tracking_uri=uri),
            "--iterations 0 is not positive",
        ),
        (lambda uri: train_dense("resnet8", "digits", device="tpu", tracking_uri=uri), "unknown device 'tpu'"),
        (
            lambda uri: train_dense("resnet8", "digits", update_step="triton", tracking_uri=uri),  # type: ignore[arg-type]
            "unknown update step 'triton'",
        ),
        (
            lambda uri: train_dense("resnet8", "digits", update_step="fused", device="cpu", tracking_uri=uri),
            "--update-step fused: ",
        ),
        (
            lambda uri: iterate("abcdef", "lr_rewind", update_step="fused", compile=True, tracking_uri=uri),
            "both --update-step fused and --compile",
        ),
        (lambda uri: prune("abcdef", tracking_uri=uri), "neither --sparsity nor --compression"),
        (lambda uri: prune("abcdef", sparsity=1.5, tracking_uri=uri), "--sparsity 1.5 is outside"),
        (lambda uri: prune("abcdef", sparsity=0.5, criterion="size", tracking_uri=uri), "unknown criterion 'size'"),
        (lambda uri: retrain("abcdef", "rewnd", tracking_uri=uri), "unknown method 'rewnd'"),
        (lambda uri: iterate("abcdef", "lr_rewind", step=2, tracking_uri=uri), "--step 2 is outside"),
        (lambda uri: open_run("the best", tracking_uri=uri), "'the best' is not a run"),
        (lambda uri: list_runs(where="accuracy", tracking_uri=uri), "where 'accuracy' is not a condition"),
        (lambda uri: list_runs(kind="prun", tracking_uri=uri), "unknown kind 'prun': did you mean 'prune'?"),  # type: ignore[arg-type]
        (lambda uri: compare(accuracy="last", tracking_uri=uri), "unknown accuracy 'last'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_request_is_refused_as_on_the_command_line(chain: Chain, call: Any, words: str) -> None:
    before = len(chain.registry().search())
    with pytest.raises(RewindError) as caught:
        call(chain.uri)
    assert words in caught.value.message
    assert caught.value.hint
    assert len(chain.registry().search()) == before


def test_kinds_are_checked_and_values_by_the_spec(chain: Chain) -> None:
    dense, mask = (open_run(run, tracking_uri=chain.uri) for run in (chain.dense, chain.prune))
    with pytest.raises(UsageError, match="is a dense run, a prune run is needed"):
        retrain(dense, "lr_rewind")
    with pytest.raises(UsageError, match=r"iteration 7 of dense run .* is not recorded"):
        retrain(mask, "weight_rewind", k=7, replay=False)
    with pytest.raises(UsageError, match="unknown place of resume points 'here'"):
        retrain(mask, "lr_rewind", resume_points="here")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="structure = 'round'"):
        prune(dense, sparsity=0.5, structure="round")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--scope layerwise has no meaning for a parent that is pruned already"):
        retrain(mask, "lr_rewind", scope="layerwise")
    with pytest.raises(TypeError, match="unknown option 'gpu'"):
        prune(dense, sparsity=0.5, gpu=1)  # type: ignore[call-arg]


def test_damage_is_found(copied_chain: Chain) -> None:
    run = open_run(copied_chain.lr_rewind, tracking_uri=copied_chain.uri)
    assert verify(run) == []
    path = run.file("checkpoints/final.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    fresh = open_run(run.run_id, tracking_uri=copied_chain.uri)
    assert "is damaged" in verify(fresh)[0]
    with pytest.raises(RegistryError, match="is damaged"):
        fresh.model()


# Networks and data of one's own


class Own(nn.Module):
    """Two linear layers, so that no tensor alone says how many classes there are."""

    def __init__(self, config: rewindctl.NetworkConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(config.in_channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 4 * 4, 12)
        self.head = nn.Linear(12, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.norm(self.stem(x)).relu().flatten(1)).relu())
        return logits


@pytest.fixture
def own() -> Iterator[None]:
    """A network `own` and data `own`, for one test."""
    rewindctl.register_model("own")(Own)

    @rewindctl.register_dataset("own")
    def data(data_dir: Path | None) -> dict[str, Any]:
        images, labels = np.random.RandomState(0).randint(0, 256, (80, 4, 4, 1), dtype=np.uint8), np.arange(80) % 3
        return {"x_train": images[:50], "y_train": labels[:50], "x_test": images[50:], "y_test": labels[50:]}

    yield
    for catalog in (models, datasets):
        catalog._entries.pop("own")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("own", "store")
def test_a_module_of_ones_own_is_trained_pruned_retrained_verified_and_loaded() -> None:
    dense = train_dense("own", "own", recipe="digits", iterations=8, batch_size=16, rewind_points=(4,))
    assert isinstance(dense.spec, DenseSpec)
    mask = prune(dense, sparsity=0.5, structure="structured", channel_norm="remove")
    assert {"norm.weight", "norm.bias"} <= set(mask.mask())
    run = retrain(mask, "weight_rewind", k=4)
    assert [problem for one in (dense, mask, run) for problem in verify(one)] == []
    network = load_model(run)
    assert isinstance(network, Own)
    assert not dict(network.named_parameters())["norm.bias"][~run.mask()["norm.bias"]].any()
    assert network(torch.zeros(5, 1, 4, 4)).shape == (5, 3)
    models._entries.pop("own")  # as where the package that registers it is not installed
    assert verify(run) == ["unknown model 'own'"]
    rewindctl.register_model("own")(Own)


@pytest.mark.usefixtures("own", "store")
def test_a_network_that_does_not_fit_the_images_leaves_no_run() -> None:
    with pytest.raises(UsageError, match="model 'own' fails on images of 1x8x8"):
        train_dense("own", "digits", iterations=4)
    assert list_runs() == []


@pytest.mark.usefixtures("own", "store")
def test_data_that_cannot_be_read_says_whose_it_is() -> None:
    @rewindctl.register_dataset("absent")
    def absent(data_dir: Path | None) -> dict[str, Any]:
        raise FileNotFoundError("no such disk")

    try:
        with pytest.raises(RewindError, match="data set 'absent' cannot be read: FileNotFoundError: no such disk"):
            train_dense("own", "absent")
    finally:
        datasets._entries.pop("absent")


def test_a_run_stays_in_its_store(chain: Chain, store: Path) -> None:
    mask = open_run(chain.prune, tracking_uri=chain.uri)
    assert retrain(mask, "lr_rewind").run_id == chain.lr_rewind
    assert isinstance(retrain(mask, "lr_rewind"), Run)
    with pytest.raises(UsageError, match="no run"):
        retrain(mask, "lr_rewind", tracking_uri=f"sqlite:///{store}")


def test_reading_makes_no_experiment(copied_chain: Chain) -> None:
    def experiments() -> list[str]:
        return [one.name for one in copied_chain.registry().client.search_experiments()]

    before = experiments()
    for read in (list_runs, compare, lambda **at: open_run(copied_chain.dense, **at)):
        with pytest.raises(UsageError, match="no experiment 'rewindclt': did you mean 'rewindctl'"):
            read(tracking_uri=copied_chain.uri, experiment="rewindclt")
    assert experiments() == before
