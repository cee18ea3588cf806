"""What people read of a run: its name, and a command in its note that leads back to it."""

import shlex
from dataclasses import replace

import pytest
from conftest import Chain, Cli

from rewindctl.pipeline.labels import (
    LINE,
    dense_name,
    inherited,
    method_label,
    replay_name,
    retrain_command,
    tune_name,
)
from rewindctl.pipeline.requests import retrain_spec
from rewindctl.registry import records as tag
from rewindctl.registry.records import Upgrade
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import DenseSpec, ReplaySpec

NAMES = {
    "dense": "dense s0 resnet8-digits",
    "prune": "prune 5x s0 resnet8-digits",
    "finetune": "finetune 5x s0 resnet8-digits",
    "weight_rewind": "weight_rewind k=6 5x s0 resnet8-digits",
    "lr_rewind": "lr_rewind 5x s0 resnet8-digits",
}


@pytest.mark.parametrize("stage", NAMES)
def test_a_run_can_be_told_by_its_name(chain: Chain, stage: str) -> None:
    assert chain.registry().get(getattr(chain, stage)).name == NAMES[stage]


def test_a_search_is_named_as_the_runs_are(chain: Chain) -> None:
    assert tune_name("lr_rewind", chain.registry().get(chain.prune)) == f"tune {NAMES['lr_rewind']}"


def test_searches_and_replays_show_an_unusual_criterion_and_excluded_layers(chain: Chain) -> None:
    registry = chain.registry()
    mask, training = registry.get(chain.prune), registry.get(chain.lr_rewind)
    spec = ReplaySpec(parent_fingerprint=training.fingerprint, iteration=5, from_iteration=0, evaluate_every=6)
    assert replay_name(spec, registry.get(chain.dense), None) == "replay dense to 5 s0 resnet8-digits"
    assert replay_name(spec, training, mask) == "replay lr_rewind to 5 s0 resnet8-digits"
    unusual = mask.spec.model_copy(update={"criterion": "random", "exclude": ("stem",)})
    mask = replace(mask, upgrade=Upgrade(unusual, ""))
    assert tune_name("lr_rewind", mask) == "tune lr_rewind 5x random without stem s0 resnet8-digits"
    assert replay_name(spec, training, mask) == "replay lr_rewind random without stem to 5 s0 resnet8-digits"


@pytest.mark.parametrize("stage", NAMES)
def test_the_command_in_the_note_leads_back_to_the_run(chain: Chain, cli: Cli, stage: str) -> None:
    run = chain.registry().get(getattr(chain, stage))
    program, *arguments = shlex.split(run.tags[tag.NOTE].split("```")[1].replace("\\\n", " "))
    assert program == "rewindctl"
    answer = cli(*arguments, "--tracking-uri", chain.uri)
    assert answer.out == f"{run.run_id}\n", answer.err
    assert len(chain.registry().search()) == len(NAMES)


def test_notes_say_the_result(chain: Chain) -> None:
    registry = chain.registry()
    runs = {stage: registry.get(getattr(chain, stage)) for stage in NAMES}
    notes = {stage: run.tags[tag.NOTE] for stage, run in runs.items()}
    for stage, note in notes.items():
        assert f"{runs[stage].metrics['test_accuracy']:.2%} test accuracy" in note
    assert "77,072 of them kernels" in notes["dense"]
    assert "Kept 15,414 of 77,072 kernel weights (5x, unstructured, global)" in notes["prune"]
    assert f"{100 * runs['lr_rewind'].metrics['delta_accuracy']:+.2f} points" in notes["lr_rewind"]
    source = f"[{runs['dense'].name}](#/runs/{chain.dense})"
    assert f"Weights from iteration 6 of {source}, 18 iterations at the schedule" in notes["weight_rewind"]
    assert "24 iterations at a constant rate of 0.001" in notes["finetune"]


def test_notes_link_the_parent(chain: Chain) -> None:
    registry = chain.registry()
    for stage in ("prune", "finetune", "weight_rewind", "lr_rewind"):
        run = registry.get(getattr(chain, stage))
        parent = registry.parent(run)
        assert f"[{parent.name}](#/runs/{parent.run_id})" in run.tags[tag.NOTE]


def test_the_commands_in_notes_fit_a_page(chain: Chain) -> None:
    for run in chain.registry().search():
        assert max(map(len, run.tags[tag.NOTE].split("```")[1].splitlines())) <= LINE + len("   \\")


def test_the_label_is_the_name_without_the_seed(chain: Chain) -> None:
    run = chain.registry().get(chain.weight_rewind)
    assert run.tags[tag.LABEL] == "weight_rewind k=6 5x resnet8-digits"


def test_descendants_inherit_what_tells_them_apart(chain: Chain) -> None:
    registry = chain.registry()
    assert inherited(registry.get(chain.dense)) == {tag.MODEL: "resnet8", tag.DATASET: "digits", tag.SEED: "0"}
    expected = {tag.STRUCTURE: "unstructured", tag.SCOPE: "global", tag.SPARSITY: "0.800005"}
    for run in (chain.prune, chain.lr_rewind):
        assert inherited(registry.get(run)) == inherited(registry.get(chain.dense)) | expected


ASKED = {
    "--method finetune --lr 0.001 --iterations 24": RetrainOptions(method="finetune"),
    "--method finetune --lr 1e-05 --iterations 5": RetrainOptions(method="finetune", lr=1e-5, iterations=5),
    "--method weight_rewind --k 0": RetrainOptions(method="weight_rewind", k=0),
    "--method weight_rewind --k 6 --lr-clock restarted --optimizer-state restored": RetrainOptions(
        method="weight_rewind", k=6, lr_clock="restarted", optimizer_state="restored"
    ),
    "--method lr_rewind --iterations 12": RetrainOptions(method="lr_rewind", iterations=12),
    "--method rewind --weights-k 6 --lr-k 0": RetrainOptions(method="rewind", weights_k=6, lr_k=0),
    "--method weight_rewind --k 6 --data-order continued": RetrainOptions(
        method="weight_rewind", k=6, data_order="continued"
    ),
}


@pytest.mark.parametrize("line", ASKED)
def test_a_retraining_can_be_asked_for_again(chain: Chain, line: str) -> None:
    registry = chain.registry()
    spec = retrain_spec(registry.get(chain.prune), registry.get(chain.dense), ASKED[line])
    assert retrain_command(spec, "abcdef") == f"rewindctl retrain --parent abcdef {line}"


def test_two_of_a_kind_differ_in_their_label(chain: Chain) -> None:
    registry = chain.registry()
    prune, dense = registry.get(chain.prune), registry.get(chain.dense)
    labels = [method_label(retrain_spec(prune, dense, options)) for options in ASKED.values()]
    assert labels[:2] == ["finetune", "finetune T=5"]
    usual = ["weight_rewind k=0", "weight_rewind k=6", "lr_rewind T=12", "rewind w=6 c=0", "weight_rewind k=6"]
    assert labels[2:] == usual


def test_a_dense_run_is_named_by_network_data_and_seed(chain: Chain) -> None:
    spec = chain.registry().get(chain.dense).spec
    assert isinstance(spec, DenseSpec)
    assert dense_name(spec.model_copy(update={"seed": 7})) == "dense s7 resnet8-digits"
