"""What a stage leaves behind: tags, params, metrics, artifacts; what is found again; what a failure records."""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from conftest import TINY, Chain, Cli

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.opening import params_of
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec
from rewindctl.training.loop import evaluate

STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")
RETRAININGS = STAGES[2:]
KERNELS = 77_072  # of resnet8 on one channel and ten classes, counted by hand below
FINAL = "checkpoints/final.safetensors"
COMMON = {"spec.json", "environment.json", "record.json"}
ARTIFACTS = {
    "dense": COMMON | {FINAL, *(f"checkpoints/{k:08d}.safetensors" for k in (0, 6, 12))},
    "prune": COMMON | {"mask/mask.safetensors", "mask/layers.csv", "plots/density.png"},
    "retrain": COMMON | {FINAL},
}


def run_of(chain: Chain, stage: str) -> RunRecord:
    return chain.registry().get(getattr(chain, stage))


def folder_of(run: RunRecord) -> Path:
    return Path(unquote(urlsplit(run.artifact_uri).path))


def history(chain: Chain, stage: str, metric: str) -> dict[int, float]:
    """A metric by step; no step was logged twice."""
    from mlflow import MlflowClient

    points = MlflowClient(chain.uri).get_metric_history(getattr(chain, stage), metric)
    found = {point.step: point.value for point in points}
    assert len(found) == len(points)
    return found


def mask_of(chain: Chain) -> Mask:
    return Mask.load(chain.registry().artifact(run_of(chain, "prune"), "mask/mask.safetensors"))


def state_of(chain: Chain, stage: str, path: str = FINAL) -> TrainState:
    return TrainState.load(chain.registry().artifact(run_of(chain, stage), path))


def digest(registry: Registry, run_id: str, path: str = FINAL) -> str:
    return str(registry.manifest(registry.get(run_id))[path]["sha256"])


# Tags and params


@pytest.mark.parametrize("stage", STAGES)
def test_every_run_says_what_it_is(chain: Chain, stage: str) -> None:
    run = run_of(chain, stage)
    parent = chain.registry().parent(run) if run.parent_id else None
    assert run.tags[tag.KIND] == (stage if stage in ("dense", "prune") else "retrain")
    assert run.tags[tag.SCHEMA] == "2"
    assert run.tags[tag.FINGERPRINT] == run.spec.fingerprint()
    assert run.tags[tag.GROUP] == run.spec.group(parent.group if parent else None)
    assert (run.tags[tag.MODEL], run.tags[tag.DATASET], run.tags[tag.SEED]) == ("resnet8", "digits", "0")
    assert "```\nrewindctl " in run.tags[tag.NOTE]
    assert run.finished


@pytest.mark.parametrize("stage", STAGES)
def test_every_run_is_linked_to_its_parent_and_its_dense_run(chain: Chain, stage: str) -> None:
    run = run_of(chain, stage)
    assert run.tags.get(tag.PARENT) == {"dense": None, "prune": chain.dense}.get(stage, chain.prune)
    assert run.dense_run_id == chain.dense
    if stage != "dense":
        assert run.tags[tag.DENSE_RUN] == chain.dense
        assert run.params["parent_fingerprint"] == chain.registry().parent(run).fingerprint


@pytest.mark.parametrize(("method", "iteration"), [("finetune", 24), ("weight_rewind", 6), ("lr_rewind", 24)])
def test_a_retraining_says_where_its_weights_come_from(chain: Chain, method: str, iteration: int) -> None:
    assert run_of(chain, method).tags[tag.WEIGHTS_FROM] == f"{chain.dense}@{iteration}"


@pytest.mark.parametrize("stage", STAGES)
def test_params_hold_every_field_of_the_spec(chain: Chain, stage: str) -> None:
    run = run_of(chain, stage)
    assert run.params == params_of(run.spec)
    assert set(run.params) == set(run.spec.fields())


def test_params_are_readable_text(chain: Chain) -> None:
    dense, finetune, rewound = (run_of(chain, stage).params for stage in ("dense", "finetune", "weight_rewind"))
    assert (dense["rewind_points"], dense["lr_boundaries"], dense["nesterov"]) == ("0,6,12,24", "12,18", "True")
    assert (finetune["constant_lr"], finetune["k"]) == ("0.001", "none")
    assert (rewound["constant_lr"], rewound["k"], rewound["iterations"]) == ("none", "6", "18")


# Metrics


@pytest.mark.parametrize(
    ("stage", "rates"),
    [
        ("dense", {0: 0.1, 12: 0.1, 24: 0.001}),
        ("finetune", {0: 0.001, 12: 0.001, 24: 0.001}),
        ("weight_rewind", {0: 0.1, 12: 0.01, 18: 0.001}),  # the clock starts at 6
        ("lr_rewind", {0: 0.1, 12: 0.1, 24: 0.001}),
    ],
)
def test_curves_are_logged_at_every_evaluation_and_the_end(chain: Chain, stage: str, rates: dict[int, float]) -> None:
    assert history(chain, stage, "lr") == rates  # the rate of the last update before
    assert set(history(chain, stage, "test_loss")) == set(rates)
    assert set(history(chain, stage, "test_accuracy")) == set(rates)
    assert set(history(chain, stage, "train_loss")) == set(rates) - {0}


@pytest.mark.parametrize("stage", STAGES)
def test_final_metrics_are_fractions_and_exact_counts(chain: Chain, stage: str) -> None:
    run, kept = run_of(chain, stage), KERNELS if stage == "dense" else KERNELS - round(0.8 * KERNELS)
    metrics = run.metrics
    assert metrics["nonzero_kernel_parameters"] == kept
    assert metrics["sparsity"] == pytest.approx(1 - kept / KERNELS, abs=1e-12)
    assert metrics["compression"] == pytest.approx(KERNELS / kept)
    assert 0 < metrics["test_accuracy"] <= 1
    assert (metrics["test_accuracy"] * 797) == pytest.approx(round(metrics["test_accuracy"] * 797))
    baseline = run_of(chain, "dense").metrics["test_accuracy"]
    assert metrics["delta_accuracy"] == pytest.approx(metrics["test_accuracy"] - baseline)


def test_the_kernels_of_resnet8_are_counted_right() -> None:
    blocks = 2 * 9 * 16 * 16 + (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    assert 9 * 16 + blocks + 64 * 10 == KERNELS


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "prune"])
def test_the_result_is_the_last_evaluation_and_the_best_is_kept_apart(chain: Chain, stage: str) -> None:
    curve, run = history(chain, stage, "test_accuracy"), run_of(chain, stage)
    assert run.metrics["test_accuracy"] == curve[max(curve)]
    assert run.metrics["test_accuracy_best"] == max(curve.values())
    assert run.metrics["iterations_per_second"] > 0
    assert run.metrics["duration_seconds"] > 0


# Artifacts


@pytest.mark.parametrize("stage", STAGES)
def test_the_manifest_lists_every_artifact_with_its_digest(chain: Chain, stage: str) -> None:
    run = run_of(chain, stage)
    folder = folder_of(run)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = found.pop("manifest.json")
    assert run.tags[tag.MANIFEST] == hashlib.sha256(manifest).hexdigest()
    assert json.loads(manifest)["artifacts"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in found.items()
    }
    assert set(found) == ARTIFACTS[run.kind]


@pytest.mark.parametrize("stage", STAGES)
def test_the_spec_and_the_surroundings_are_kept(chain: Chain, stage: str) -> None:
    run = run_of(chain, stage)
    spec = json.loads((folder_of(run) / "spec.json").read_text())
    assert spec == run.spec.fields()
    facts = json.loads((folder_of(run) / "environment.json").read_text())
    assert facts["packages"]["torch"] == version("torch")
    assert {"device", "driver", "memory_format", "git_commit", "threads"} <= set(facts)


@pytest.mark.parametrize("method", RETRAININGS)
def test_removed_weights_are_zero_in_every_saved_file(chain: Chain, method: str) -> None:
    mask, state = mask_of(chain), state_of(chain, method)
    assert mask.removed == round(0.8 * KERNELS)
    for name, kept in mask.kernels.items():
        for part in (state.parameters, state.momentum):
            assert not bool(part[name][~kept].any()), name
        assert bool(state.parameters[name][kept].any()), name


def test_the_mask_table_adds_up_to_the_mask(chain: Chain) -> None:
    lines = (folder_of(run_of(chain, "prune")) / "mask/layers.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    mask = mask_of(chain)
    assert [row["layer"] for row in rows] == list(mask.kernels)
    assert sum(int(row["kept"]) for row in rows) == mask.kept
    assert sum(int(row["removed"]) for row in rows) == mask.removed


# What a retraining starts from


def accuracy_of(chain: Chain, state: TrainState) -> float:
    """Test accuracy of the weights and statistics of a state under the chain's mask."""
    spec, data = run_of(chain, "dense").spec, load_dataset("digits")
    assert isinstance(spec, DenseSpec)
    config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
    network = build_network("resnet8", config, seed=12345)
    state.load_into(network)
    mask_of(chain).apply_(dict(network.named_parameters()))
    network.to(memory_format=torch.channels_last)
    return evaluate(network, DeviceData.upload(data, torch.device("cpu")))[1]


def test_weight_rewinding_starts_from_the_survivors_of_iteration_k(chain: Chain) -> None:
    state = state_of(chain, "dense", "checkpoints/00000006.safetensors")
    assert history(chain, "weight_rewind", "test_accuracy")[0] == accuracy_of(chain, state)


@pytest.mark.parametrize("method", ["finetune", "lr_rewind"])
def test_the_others_start_from_the_trained_survivors(chain: Chain, method: str) -> None:
    trained = accuracy_of(chain, state_of(chain, "dense"))
    assert history(chain, method, "test_accuracy")[0] == trained
    assert run_of(chain, "prune").metrics["test_accuracy"] == trained
    assert trained != accuracy_of(chain, state_of(chain, "dense", "checkpoints/00000006.safetensors"))


@pytest.mark.parametrize(("weights", "clock", "usual"), [("24", "0", "lr_rewind"), ("6", "6", "weight_rewind")])
def test_rewinding_both_alike_is_the_usual_method_under_its_own_name(
    chain: Chain, cli: Cli, weights: str, clock: str, usual: str
) -> None:
    line = ("--method", "rewind", "--weights-k", weights, "--lr-k", clock, "--tracking-uri", chain.uri)
    assert cli("retrain", "--parent", chain.prune, *line).run_id == getattr(chain, usual)


def test_with_its_momentum_restored_a_hardly_pruned_run_retraces_the_dense_one(copied_chain: Chain, cli: Cli) -> None:
    """One weight of 77,072 is gone, the smallest: from iteration 12 the same batches lead to nearly the same end."""
    line = ("--sparsity", "0.00001", "--method", "weight_rewind", "--k", "12", "--tracking-uri", copied_chain.uri)
    dense = state_of(copied_chain, "dense").parameters
    distance: dict[str, float] = {}
    for momentum in ("restored", "zero"):
        run = cli("retrain", "--parent", copied_chain.dense, *line, "--optimizer-state", momentum).run_id
        registry = copied_chain.registry()
        ended = TrainState.load(registry.artifact(registry.get(run), FINAL)).parameters
        distance[momentum] = max(float((ended[name] - dense[name]).abs().max()) for name in dense)
    assert distance["restored"] < 0.05 * distance["zero"]


# Found again, or run again


def test_the_same_spec_in_two_fresh_stores_ends_in_the_same_bytes(chain: Chain, store: Path, cli: Cli) -> None:
    dense = cli("train-dense", *TINY).run_id
    prune = cli("prune", "--parent", dense, "--sparsity", "0.8").run_id
    rewound = cli("retrain", "--parent", prune, "--method", "weight_rewind", "--k", "6").run_id
    here, there = Registry(f"sqlite:///{store}"), chain.registry()
    assert digest(here, dense) == digest(there, chain.dense)
    assert digest(here, prune, "mask/mask.safetensors") == digest(there, chain.prune, "mask/mask.safetensors")
    assert digest(here, rewound) == digest(there, chain.weight_rewind)
    assert here.get(rewound).fingerprint == there.get(chain.weight_rewind).fingerprint


def test_another_seed_ends_elsewhere_but_in_the_same_group(chain: Chain, store: Path, cli: Cli) -> None:
    other = cli("train-dense", *TINY, "--seed", "1").run_id
    here, there = Registry(f"sqlite:///{store}"), chain.registry()
    assert digest(here, other) != digest(there, chain.dense)
    assert here.get(other).fingerprint != there.get(chain.dense).fingerprint
    assert here.get(other).group == there.get(chain.dense).group


Line = Callable[[Chain], tuple[str, ...]]
AGAIN: dict[str, Line] = {
    "dense": lambda chain: ("train-dense", *TINY),
    "prune": lambda chain: ("prune", "--parent", chain.dense, "--compression", "5"),
    "finetune": lambda chain: ("retrain", "--parent", chain.prune, "--method", "finetune"),
    "weight_rewind": lambda chain: ("retrain", "--parent", chain.prune, "--method", "weight_rewind", "--k", "6"),
    "lr_rewind": lambda chain: ("retrain", "--parent", chain.prune, "--method", "lr_rewind"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_command_finds_its_run_and_makes_none(chain: Chain, cli: Cli, stage: str) -> None:
    answer = cli(*AGAIN[stage](chain), "--tracking-uri", chain.uri)
    assert answer.out == f"{getattr(chain, stage)}\n"
    assert "reused" in answer.err
    assert len(chain.registry().search()) == len(STAGES)


@pytest.mark.parametrize("stage", ["dense", "prune", "lr_rewind"])
def test_force_makes_another_run_which_is_the_one_found_from_then_on(copied_chain: Chain, cli: Cli, stage: str) -> None:
    line = (*AGAIN[stage](copied_chain), "--tracking-uri", copied_chain.uri)
    forced = cli(*line, "--force").run_id
    assert forced != getattr(copied_chain, stage)
    assert cli(*line).run_id == forced
    assert len(copied_chain.registry().search()) == len(STAGES) + 1


def test_a_forced_run_has_the_same_bytes(copied_chain: Chain, cli: Cli) -> None:
    forced = cli(*AGAIN["weight_rewind"](copied_chain), "--force", "--tracking-uri", copied_chain.uri).run_id
    registry = copied_chain.registry()
    assert digest(registry, forced) == digest(registry, copied_chain.weight_rewind)


# Failure


def test_a_training_that_diverges_is_recorded_with_iteration_and_rate(store: Path, cli: Cli) -> None:
    answer = cli("train-dense", *TINY, "--lr", "1e30")
    (run,) = Registry(f"sqlite:///{store}").search()
    assert (answer.code, answer.out) == (1, "")
    assert run.status == "FAILED"
    assert run.tags[tag.DIVERGED_ITERATION] == "1"
    assert float(run.tags[tag.DIVERGED_RATE]) == 1e30
    assert run.tags[tag.ERROR] in answer.err
    assert f"; the FAILED run: rewindctl show {run.run_id}\n" in answer.err
    assert "test_accuracy_best" not in run.metrics


def test_a_failed_run_is_not_reused(store: Path, cli: Cli) -> None:
    for _ in range(2):
        assert cli("train-dense", *TINY, "--lr", "1e30").code == 1
    runs = Registry(f"sqlite:///{store}").search()
    assert [run.status for run in runs] == ["FAILED", "FAILED"]
    assert runs[0].fingerprint == runs[1].fingerprint


def test_a_failed_baseline_is_not_registered(store: Path, cli: Cli) -> None:
    cli("train-dense", *TINY, "--lr", "1e30")
    assert "no model" in cli("show", "models:/resnet8-digits-dense@seed-0").err


def test_the_dense_run_is_registered_under_its_seed(chain: Chain) -> None:
    from mlflow import MlflowClient

    model = MlflowClient(chain.uri).get_registered_model("resnet8-digits-dense")
    assert model.aliases == {"seed-0": 1}
    assert chain.registry().resolve("models:/resnet8-digits-dense@seed-0").run_id == chain.dense


def test_the_child_of_a_forced_rerun_is_not_that_of_the_run_it_replaced(copied_chain: Chain, cli: Cli) -> None:
    uri = ("--tracking-uri", copied_chain.uri)
    other = cli("train-dense", *TINY, "--seed", "0", "--force", *uri).run_id
    mask = cli("prune", "--parent", other, "--compression", "5", *uri).run_id
    assert mask != copied_chain.prune
    assert copied_chain.registry().get(mask).parent_id == other
    assert cli("prune", "--parent", copied_chain.dense, "--compression", "5", *uri).run_id == copied_chain.prune


def test_a_request_that_turns_out_wrong_leaves_no_run(copied_chain: Chain, cli: Cli) -> None:
    before = len(copied_chain.registry().search())
    answer = cli("prune", "--parent", copied_chain.dense, "--compression", "1e9", "--tracking-uri", copied_chain.uri)
    assert answer.code == 2
    assert len(copied_chain.registry().search()) == before


def test_a_last_update_that_diverges_is_a_failure(store: Path, cli: Cli) -> None:
    line = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--iterations", "1", "--lr", "1e30")
    answer = cli(*line)
    assert (answer.code, answer.out) == (1, "")
    (run,) = Registry(f"sqlite:///{store}").search()
    assert run.status == "FAILED"


def test_a_parent_in_another_experiment_counts(copied_chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", copied_chain.uri, "--experiment", "other")
    made = cli("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", *where)
    assert made.code == 0, made.err
    assert "LR rewinding" in cli("compare", *where).out


def test_the_weights_of_an_earlier_iteration_can_be_pruned_and_are_what_lr_rewinding_goes_on_from(
    copied_chain: Chain, cli: Cli
) -> None:
    chain = copied_chain
    mask_run = cli(
        "prune", "--parent", chain.dense, "--compression", "5", "--iteration", "12", "--tracking-uri", chain.uri
    ).run_id
    lr = cli("retrain", "--parent", mask_run, "--method", "lr_rewind", "--tracking-uri", chain.uri).run_id
    registry = chain.registry()
    early = TrainState.load(registry.artifact(registry.get(chain.dense), "checkpoints/00000012.safetensors"))
    mask = Mask.load(registry.artifact(registry.get(mask_run), "mask/mask.safetensors"))
    magnitudes = {name: early.parameters[name].abs() for name in mask.tensors()}
    smallest_kept = min(float(magnitudes[name][kept].min()) for name, kept in mask.tensors().items() if kept.any())
    largest_removed = max(float(magnitudes[name][~kept].max()) for name, kept in mask.tensors().items())
    assert largest_removed <= smallest_kept
    assert registry.get(lr).tags["rewindctl.weights_from"] == f"{chain.dense}@12"
    assert registry.get(mask_run).fingerprint != registry.get(chain.prune).fingerprint
    assert cli("verify", "--all", "--tracking-uri", chain.uri).code == 0


def test_the_last_iteration_asked_for_by_number_is_the_usual_mask(chain: Chain, cli: Cli) -> None:
    answer = cli(
        "prune", "--parent", chain.dense, "--compression", "5", "--iteration", "24", "--tracking-uri", chain.uri
    )
    assert answer.run_id == chain.prune


@pytest.mark.parametrize(("parent", "iteration"), [("dense", "13"), ("lr_rewind", "12")])
def test_weights_that_are_not_recorded_cannot_be_pruned_without_a_replay(
    chain: Chain, cli: Cli, parent: str, iteration: str
) -> None:
    answer = cli(
        "prune", "--parent", getattr(chain, parent), "--compression", "9", "--iteration", iteration,
        "--tracking-uri", chain.uri, "--no-replay",
    )  # fmt: skip
    assert answer.code == 2
    assert iteration in answer.err


def test_a_retrained_network_on_disk_is_its_survivors(chain: Chain) -> None:
    """Neither weights nor momentum have a bit set where the mask removes, so that files shrink with the mask."""
    registry = chain.registry()
    dense, pruned, retrained = (registry.get(run) for run in (chain.dense, chain.prune, chain.lr_rewind))
    path = "checkpoints/final.safetensors"
    whole, sparse = (registry.manifest(run)[path]["size"] for run in (dense, retrained))
    mask = Mask.load(registry.artifact(pruned, "mask/mask.safetensors"))
    saved = 8 * mask.removed - mask.total // 8
    assert whole - sparse > 0.99 * saved - 200 * len(mask.kernels)
