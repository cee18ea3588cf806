"""Runs of schema 1 are the experiments that they are today: found, verified, exported; nothing of theirs changes."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Chain, Cli
from sealing import rewrite as rewrite_file

from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import RECORD_FILE
from rewindctl.specs import AnyStage, parse_spec


@pytest.fixture
def old(copied_chain: Chain) -> Chain:
    """The chain as version 1 would have recorded it: fingerprints over every field, and children that name them."""
    registry = copied_chain.registry()
    names: dict[str, tuple[str, str]] = {}
    for run in registry.search():
        above = names.get(run.parent_id or "")
        spec = aged(run.spec, above[0] if above else None)
        names[run.run_id] = spec.fingerprint(), spec.group(above[1] if above else None)
        rewrite(registry, copied_chain.store, run, spec, names[run.run_id])
    return copied_chain


def aged(spec: AnyStage, parent: str | None) -> AnyStage:
    changes = {"schema_version": 1} | ({"parent_fingerprint": parent} if parent else {})
    return parse_spec(spec.model_copy(update=changes).canonical(), "here")


def rewrite(registry: Registry, store: Path, run: RunRecord, spec: AnyStage, name: tuple[str, str]) -> None:
    rewrite_file(registry, run, RECORD_FILE, None)
    registry.client.delete_tag(run.run_id, tag.RECORD)
    text = json.dumps(json.loads(spec.canonical()), indent=2, sort_keys=True) + "\n"
    rewrite_file(registry, run, "spec.json", text)
    tags = {tag.SCHEMA: "1", tag.FINGERPRINT: name[0], tag.GROUP: name[1], tag.SPEC: spec.canonical()}
    for key, value in tags.items():
        registry.client.set_tag(run.run_id, key, value)
    gone = set(run.params) - set(spec.fields())
    with closing(sqlite3.connect(store)) as connection, connection:
        for key, value in [(key, None) for key in gone] + [("schema_version", "1"), *named(spec)]:
            connection.execute("DELETE FROM params WHERE run_uuid = ? AND key = ?", (run.run_id, key))
            if value is not None:
                connection.execute(
                    "INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)", (run.run_id, key, value)
                )


def named(spec: AnyStage) -> list[tuple[str, str]]:
    parent = getattr(spec, "parent_fingerprint", None)
    return [("parent_fingerprint", parent)] if parent else []


def test_old_runs_are_intact_and_have_todays_identity(chain: Chain, old: Chain, cli: Cli) -> None:
    today, before = chain.registry(), old.registry()
    for run in before.search():
        now = today.get(run.run_id)
        assert run.recorded_fingerprint != now.fingerprint
        assert (run.fingerprint, run.group, run.spec) == (now.fingerprint, now.group, now.spec)
        assert before.get(run.run_id).fingerprint == now.fingerprint
        assert [one.run_id for one in before.search(fingerprint=now.fingerprint)] == [run.run_id]
    answer = cli("verify", "--all", "--tracking-uri", old.uri)
    assert (answer.code, answer.err.strip()) == (0, "5 of 5 runs are intact")


def test_old_runs_are_reused_and_gone_on_from(old: Chain, cli: Cli) -> None:
    at = ("--tracking-uri", old.uri)
    shorter = ("--model", "resnet8", "--dataset", "digits", "--iterations", "24", "--batch-size", "32")
    assert cli("train-dense", *shorter, *at).run_id == old.dense, "other points and evaluations are no other training"
    assert cli("prune", "--parent", old.dense, "--compression", "5", *at).run_id == old.prune
    for method, extra in (("finetune", ()), ("weight_rewind", ("--k", "6")), ("lr_rewind", ())):
        found = cli("retrain", "--parent", old.prune, "--method", method, *extra, *at)
        assert found.run_id == getattr(old, method)
    new = cli("retrain", "--parent", old.prune, "--method", "weight_rewind", "--k", "13", *at)
    registry = old.registry()
    assert registry.get(new.run_id).tags[tag.SCHEMA] == "2"
    assert {run.kind for run in registry.search()} == {"dense", "prune", "retrain", "replay"}
    assert cli("verify", "--all", *at).code == 0


@pytest.mark.slow
def test_old_and_new_runs_travel_together_and_are_the_same_at_their_goal(
    chain: Chain, old: Chain, cli: Cli, store: Path
) -> None:
    at = ("--tracking-uri", old.uri)
    cli("retrain", "--parent", old.prune, "--method", "weight_rewind", "--k", "12", *at)
    assert cli("registry", "export", "all.bundle", *at).code == 0
    assert cli("registry", "import", "all.bundle").code == 0
    there = Registry()
    assert sorted(run.tags[tag.SCHEMA] for run in there.search()) == ["1"] * 5 + ["2"]
    assert cli("verify", "--all").code == 0
    again = cli("registry", "import", "all.bundle")
    assert "0 runs imported, 6 were there" in again.err
    cli("registry", "export", "today.bundle", "--tracking-uri", chain.uri)
    cli("registry", "import", "today.bundle")
    assert len(there.search()) == 6, "what has the same networks is the same run, whatever its schema"


@pytest.mark.slow
def test_a_cell_holds_old_and_new_trials(old: Chain, cli: Cli) -> None:
    at = ("--tracking-uri", old.uri)
    line = ("--model", "resnet8", "--dataset", "digits", "--iterations", "24", "--batch-size", "32", "--seed", "1")
    dense = cli("train-dense", *line, *at).run_id
    cli("retrain", "--parent", dense, "--compression", "5", "--method", "lr_rewind", *at)
    cells = json.loads(cli("compare", "--json", *at).out)
    (cell,) = [one for one in cells if one["label"] == "lr_rewind"]
    assert cell["n"] == 2


@pytest.mark.parametrize("edited", [tag.SPEC, tag.FINGERPRINT])
def test_an_edited_old_run_is_found_out(old: Chain, cli: Cli, edited: str) -> None:
    registry = old.registry()
    text = registry.get(old.dense).tags[edited]
    registry.client.set_tag(old.dense, edited, text.replace('"seed":0', '"seed":5') if edited == tag.SPEC else "0" * 64)
    answer = cli("prune", "--parent", old.dense, "--compression", "7", "--tracking-uri", old.uri)
    assert answer.code == 1
    assert "one of the two was edited" in answer.err
    assert cli("verify", old.dense, "--tracking-uri", old.uri).code == 1
