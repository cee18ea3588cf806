"""The report in MLflow is a sealed run beside the others, which no other command stumbles over."""

from pathlib import Path

import mlflow
import pytest
from conftest import Chain, Cli

from rewindctl.checks.verify import verify
from rewindctl.registry import Registry
from rewindctl.registry import records as tag


def logged(chain: Chain, cli: Cli, *options: str) -> str:
    answer = cli("compare", "--log", *options, "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    return next(line.split()[-1] for line in answer.err.splitlines() if line.startswith("logged report run"))


def test_report_run_has_the_page_the_tables_and_a_note(copied_chain: Chain, cli: Cli) -> None:
    registry = Registry(copied_chain.uri)
    run = registry.get(logged(copied_chain, cli, "--figure", "curves"))
    assert (run.kind, run.status, run.fingerprint, run.parent_id) == ("report", "FINISHED", "", None)
    assert set(registry.manifest(run)) == {
        *(f"curves.{suffix}" for suffix in ("png", "svg", "csv")),
        *("results.txt", "runs.csv", "report.md", "report.html", "record.json"),
    }
    assert "| network |" in run.tags[tag.NOTE]
    assert "fine-tuning" in run.tags[tag.NOTE]
    assert run.params == {
        "studies": "none",
        "against": "report",
        "scale": "1",
        "accuracy": "final",
        "delta": "relative",
        "source": "experiment rewindctl",
    }
    assert run.metrics == {"runs": 4}


def test_other_commands_do_not_stumble_over_it(copied_chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", copied_chain.uri)
    before = cli("compare", *where).out
    run = logged(copied_chain, cli)
    assert cli("compare", *where).out == before
    assert cli("verify", "--all", *where).code == 0
    assert run in cli("list", *where).out
    assert run in cli("list", "--kind", "report", *where).out
    assert cli("show", run, *where).code == 0
    lineage = cli("lineage", run, *where)
    assert lineage.code == 2
    assert "is a report" in lineage.err
    again = cli("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", *where)
    assert again.out.strip() == copied_chain.lr_rewind
    assert cli("prune", "--parent", run, "--compression", "5", *where).code != 0


def test_a_report_made_by_mlflow_run_is_nested_in_its_run_and_has_no_parent_of_ours(
    copied_chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = mlflow.MlflowClient(copied_chain.uri).create_run("1").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", project)
    run = Registry(copied_chain.uri).get(logged(copied_chain, cli))
    assert (run.tags[tag.PARENT], run.parent_id) == (project, None)
    assert cli("show", run.run_id, "--tracking-uri", copied_chain.uri).code == 0


def test_report_that_was_altered_is_noticed(copied_chain: Chain, cli: Cli) -> None:
    registry = Registry(copied_chain.uri)
    run = registry.get(logged(copied_chain, cli))
    assert verify(registry, run) == []
    page = Path(run.artifact_uri.removeprefix("file://")) / "report.html"
    page.write_text(page.read_text().replace("fine-tuning", "magic"))
    (problem,) = verify(Registry(copied_chain.uri), run)
    assert "report.html" in problem
    mlflow.MlflowClient(copied_chain.uri).log_metric(run.run_id, "runs", 5)
    assert any("metric runs at step 0" in line for line in verify(Registry(copied_chain.uri), run))


def test_report_of_rows_from_a_file_says_which(copied_chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", copied_chain.uri)
    cli("compare", "--output", "out", *where)
    run = Registry(copied_chain.uri).get(logged(copied_chain, cli, "--from", "out/runs.csv", "--study", "table5"))
    assert (run.params["source"], run.params["studies"]) == ("runs.csv", "table5")


def test_note_of_a_long_table_is_cut_at_a_row(copied_chain: Chain, cli: Cli) -> None:
    run = Registry(copied_chain.uri).get(logged(copied_chain, cli, "--study", "fig2"))
    note = run.tags[tag.NOTE]
    assert len(note) < 5_000
    assert note.endswith("The rest is in `report.html`.")
    assert "0/3" in note
