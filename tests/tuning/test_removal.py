"""A search that is removed takes its trials and its study with it."""

import json
import shlex
from pathlib import Path

import optuna
import pytest
from conftest import Chain, Cli, copy_chain

from rewindctl.cli import run as run_command
from rewindctl.registry import records as tag
from rewindctl.registry.store.connect import connect
from rewindctl.tuning.storage import open_storage

SHORT = "--method finetune --trials 2 --iterations 4 --compare-seeds 0 --pruner none"


@pytest.fixture(scope="module")
def searched(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain with a finished search of two trials."""
    copied = copy_chain(chain, tmp_path_factory.mktemp("searched") / "copied")
    line = ["tune", "--parent", copied.prune, *shlex.split(SHORT), "--tracking-uri", copied.uri, "--quiet"]
    assert run_command(line) == 0
    return copied


@pytest.fixture
def copied(searched: Chain, tmp_path: Path) -> Chain:
    found = copy_chain(searched, tmp_path / "again")
    for run in found.registry().search(kind="tune"):
        connect(found.uri).set_tag(run.run_id, tag.STORAGE, str(found.store.with_name("optuna-journal.log")))
    return found


def tune(cli: Cli, chain: Chain) -> str:
    answer = cli("tune", "--parent", chain.prune, *shlex.split(SHORT), "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    return answer.run_id


def studies(chain: Chain) -> list[str]:
    return optuna.get_all_study_names(open_storage(str(chain.store.with_name("optuna-journal.log"))))


@pytest.mark.slow
def test_a_search_is_refused_with_its_trials_and_goes_with_them_and_its_study(copied: Chain, cli: Cli) -> None:
    registry, at = copied.registry(), ("--tracking-uri", copied.uri)
    (home,) = registry.search(kind="tune")
    trials = {run.run_id for run in registry.search(kind="trial")}
    refused = cli("remove", home.run_id, *at)
    assert refused.code == 2
    assert "has 2 live descendants" in refused.err
    assert all(run in refused.err for run in trials)
    assert len(studies(copied)) == 1
    done = json.loads(cli("remove", home.run_id, "--recursive", "--yes", "--json", *at).out)
    assert [row["kind"] for row in done["runs"]] == ["trial", "trial", "tune"]
    assert studies(copied) == []
    assert {run.kind for run in registry.search()} == {"dense", "prune", "retrain"}
    assert tune(cli, copied) != home.run_id
    assert not trials & {run.run_id for run in registry.search(kind="trial")}
    assert len(registry.search(kind="trial")) == 2


def test_a_study_that_another_run_of_the_search_has_stays(copied: Chain, cli: Cli) -> None:
    at = ("--tracking-uri", copied.uri)
    (home,) = copied.registry().search(kind="tune")
    longer = cli("tune", "--parent", copied.prune, *shlex.split(SHORT.replace("--trials 2", "--trials 3")), *at).run_id
    assert longer != home.run_id
    assert cli("remove", home.run_id, "--recursive", "--yes", *at).code == 0
    assert len(studies(copied)) == 1
    assert cli("remove", longer, "--recursive", "--yes", *at).code == 0
    assert studies(copied) == []


@pytest.mark.slow
def test_a_search_deleted_in_mlflow_does_not_stop_the_next(copied: Chain, cli: Cli) -> None:
    """Its trials and comparisons are orphans then; the study still has their values."""
    longer = shlex.split(SHORT.replace("--trials 2 --iterations 4 --compare-seeds 0", "--trials 3 --iterations 4"))
    line = ("tune", "--parent", copied.prune, *longer, "--compare-seeds", "1", "--tracking-uri", copied.uri)
    assert cli(*line).code == 0
    homes = {run.run_id for run in copied.registry().search(kind="tune")}
    for home in homes:
        connect(copied.uri).delete_run(home)
    again = cli(*line)
    assert again.code == 0, again.err
    assert again.run_id not in homes
