"""What commands say of runs, files, models and experiments that were deleted behind rewindctl's back."""

import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import TINY, Answer, Chain, Cli, quickly
from studies import panel, text_of

from rewindctl.registry.store.connect import connect

MODEL = "resnet8-digits-dense"
STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")


def delete(stage: str) -> Callable[[Chain], object]:
    return lambda chain: connect(chain.uri).delete_run(getattr(chain, stage))


def purge(*stages: str) -> Callable[[Chain], None]:
    """Delete, then what `mlflow gc` does to the store."""

    def damage(chain: Chain) -> None:
        client = connect(chain.uri)
        for stage in stages:
            client.delete_run(getattr(chain, stage))
            client._client._tracking_client.store._hard_delete_run(getattr(chain, stage))

    return damage


def remove_files(*stages: str) -> Callable[[Chain], None]:
    def damage(chain: Chain) -> None:
        for stage in stages:
            uri = chain.registry().get(getattr(chain, stage)).artifact_uri
            shutil.rmtree(Path(unquote(urlsplit(uri).path)))

    return damage


def delete_experiment(chain: Chain) -> None:
    connect(chain.uri).delete_experiment(chain.registry().experiment_id)


def purge_experiment(chain: Chain) -> None:
    number = chain.registry().experiment_id
    delete_experiment(chain)
    purge(*STAGES)(chain)
    connect(chain.uri)._client._tracking_client.store._hard_delete_experiment(number)


DAMAGES: dict[str, Callable[[Chain], object]] = {
    "dense deleted": delete("dense"),
    "dense purged": purge("dense"),
    "prune deleted": delete("prune"),
    "prune purged": purge("prune"),
    "retrain deleted": delete("lr_rewind"),
    "dense files": remove_files("dense"),
    "prune files": remove_files("prune"),
    "retrain files": remove_files("lr_rewind"),
    "all files": remove_files(*STAGES),
    "experiment deleted": delete_experiment,
    "experiment purged": purge_experiment,
    "model": lambda chain: connect(chain.uri).delete_registered_model(MODEL),
    "version": lambda chain: connect(chain.uri).delete_model_version(MODEL, "1"),
    "alias": lambda chain: connect(chain.uri).delete_registered_model_alias(MODEL, "seed-0"),
}
READ = {
    "list": "list",
    "show dense": "show {dense}",
    "show prune": "show {prune}",
    "show retrain": "show {lr_rewind}",
    "show alias": f"show models:/{MODEL}@seed-0",
    "lineage dense": "lineage {dense}",
    "lineage retrain": "lineage {lr_rewind}",
    "verify dense": "verify {dense}",
    "verify prune": "verify {prune}",
    "verify retrain": "verify {lr_rewind}",
    "compare": "compare",
    "export": "registry export --overwrite out.bundle",
    "plan": "reproduce tiny.yaml --trials 1 --plan --quiet",
}
MAKE = {
    "prune dense": "prune --parent {dense} --sparsity 0.5",
    "prune retrain": "prune --parent {lr_rewind} --sparsity 0.95",
    "retrain": "retrain --parent {prune} --method rewind --weights-k 6 --lr-k 3",
    "iterate": "iterate --parent {dense} --method finetune --step 0.5 --until 0.5",
    "tune": "tune --parent {prune} --trials 1",
}
OF_DENSE = ("show dense", "show alias", "lineage dense", "verify dense", "prune dense", "iterate")
OF_PRUNE = ("show prune", "verify prune", "retrain", "tune")
OF_RETRAIN = ("show retrain", "lineage retrain", "verify retrain", "prune retrain")
Expected = dict[str, tuple[int, str]]


def gone(kind: str, words: str) -> Expected:
    """What is said when the run of a kind is `words`."""
    run = {"dense": "{dense}", "prune": "{prune}", "retrain": "{lr_rewind}"}[kind]
    own = {"dense": OF_DENSE, "prune": OF_PRUNE, "retrain": OF_RETRAIN}[kind]
    below = (1, f"is gone: {words}".format(run=run))
    found = dict.fromkeys(own, (2, words.format(run=run)))
    if kind == "dense":
        found |= dict.fromkeys(("lineage retrain", "verify prune", "verify retrain", "export"), below)
        found |= dict.fromkeys(("prune retrain", "retrain", "tune"), (2, below[1]))
        found |= {"compare": (1, "3 retrain runs whose parent or dense run is gone")}
    if kind == "prune":
        found |= dict.fromkeys(("lineage retrain", "verify retrain", "export"), below)
        found |= {"prune retrain": (2, below[1]), "compare": (1, "3 retrain runs whose parent or dense run is gone")}
    return found


def without_files(*cases: str, run: str) -> Expected:
    return dict.fromkeys(cases, (1, f"manifest.json of run {run} is missing"))


EVERY = (*READ, *MAKE)
# What is expected of a command; those not named do their work. READ are all run, MAKE where they are named.
EXPECTED: dict[str, Expected] = {
    "dense deleted": gone("dense", "run {run} was deleted"),
    "dense purged": gone("dense", "no run '{run}'"),
    "prune deleted": gone("prune", "run {run} was deleted"),
    "prune purged": gone("prune", "no run '{run}'"),
    "retrain deleted": gone("retrain", "run {run} was deleted"),
    "dense files": without_files("verify dense", "prune dense", "retrain", "iterate", "export", "tune", run="{dense}"),
    "prune files": without_files(
        "verify prune", "verify retrain", "retrain", "prune retrain", "tune", "export", run="{prune}"
    ),
    "retrain files": without_files("verify retrain", "prune retrain", "export", run="{lr_rewind}"),
    "all files": without_files("verify dense", "prune dense", "iterate", "retrain", "export", run="{dense}")
    | without_files("verify prune", "tune", run="{prune}")
    | without_files("verify retrain", "prune retrain", run="{lr_rewind}"),
    "experiment deleted": dict.fromkeys(EVERY, (1, "experiment 'rewindctl' was deleted")),
    "experiment purged": gone("dense", "no run '{run}'")
    | gone("prune", "no run '{run}'")
    | gone("retrain", "no run '{run}'")
    | {"compare": (1, "0 dense, 0 prune and 0 retrain runs"), "export": (2, "no finished run matches the options")},
    "model": {"show alias": (2, f"no model models:/{MODEL}@seed-0")},
    "version": {"show alias": (2, f"no model models:/{MODEL}@seed-0")},
    "alias": {"show alias": (2, f"no model models:/{MODEL}@seed-0")},
}


def results(chain: Chain) -> list[object]:
    """A stage that fails for want of a file is recorded as FAILED; no result comes or goes."""
    query = "SELECT run_uuid, lifecycle_stage FROM runs WHERE status = 'FINISHED' ORDER BY run_uuid"
    with closing(sqlite3.connect(chain.store)) as connection:
        return connection.execute(query).fetchall()


def check(name: str, answer: Answer, code: int, words: str) -> None:
    assert "Traceback" not in answer.err, (name, answer)
    assert "this is a defect" not in answer.err, (name, answer)
    assert answer.code == code, (name, answer)
    errors = [line for line in answer.err.splitlines() if line.startswith(("error:", "hint:"))]
    assert [line.partition(":")[0] for line in errors] == ["error", "hint"] * bool(code), (name, answer)
    assert words in answer.out + answer.err, (name, answer)


@pytest.mark.parametrize("damage", [quickly(one, "dense deleted", "all files", "alias") for one in DAMAGES])
def test_every_command_does_its_work_or_says_in_a_line_what_is_gone(
    copied_chain: Chain, cli: Cli, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(text_of(panel()))
    ids = {name: getattr(copied_chain, name) for name in STAGES}
    DAMAGES[damage](copied_chain)
    before = results(copied_chain)
    lines = READ | {name: line for name, line in MAKE.items() if name in EXPECTED[damage]}
    if damage == "experiment purged":
        del lines["plan"]  # of an empty store: it would measure the network's speed for seconds
    for name, line in lines.items():
        code, words = EXPECTED[damage].get(name, (0, ""))
        answer = cli(*shlex.split(line.format(**ids)), "--tracking-uri", copied_chain.uri)
        check(name, answer, code, words.format(**ids))
        assert results(copied_chain) == before, name


@pytest.mark.parametrize("damage", ["prune deleted", "prune purged"])
def test_a_stage_whose_parent_is_gone_is_run_anew(copied_chain: Chain, cli: Cli, damage: str) -> None:
    """Its orphans are not reused: they are children of the mask that is gone."""
    DAMAGES[damage](copied_chain)
    line = ("retrain", "--parent", copied_chain.dense, "--method", "lr_rewind", "--sparsity", "0.8")
    again = cli(*line, "--tracking-uri", copied_chain.uri).run_id
    assert again not in {getattr(copied_chain, stage) for stage in STAGES}
    assert copied_chain.registry().parent(copied_chain.registry().get(again)).parent_id == copied_chain.dense
    assert again in cli("compare", "--format", "csv", "--tracking-uri", copied_chain.uri).out


def test_an_orphan_hides_no_older_result_of_its_stage(copied_chain: Chain, cli: Cli) -> None:
    """A chain was run anew with --force, and its dense run deleted: the first chain is the result again."""
    at = ("--tracking-uri", copied_chain.uri)
    whole = cli("compare", "--format", "csv", *at).out
    newer = cli("train-dense", *TINY, "--seed", "0", "--force", *at).run_id
    line = ("retrain", "--parent", newer, "--method", "lr_rewind", "--sparsity", "0.8")
    orphan = cli(*line, *at).run_id
    assert orphan in cli("compare", "--format", "csv", *at).out
    connect(copied_chain.uri).delete_run(newer)
    assert cli("compare", "--format", "csv", *at).out == whole
