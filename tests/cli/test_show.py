"""rewindctl show"""

import json
import os
import pty
import shlex
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Chain, Cli

from rewindctl.cli import run as run_command

STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def sections(out: str) -> dict[str, list[str]]:
    """The lines of each section, without its word."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines()[1:]:
        key = line[:10].strip() or key  # noqa: F821 (that of the line before)
        found.setdefault(key, []).append(line[10:])
    return found


def folder(chain: Chain, run: str) -> Path:
    return Path(unquote(urlsplit(chain.registry().get(run).artifact_uri).path))


@pytest.mark.parametrize("stage", STAGES)
def test_every_kind_of_run_fits_one_screen(chain: Chain, cli: Cli, stage: str) -> None:
    answer = cli("show", getattr(chain, stage), "--tracking-uri", chain.uri)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert 15 <= len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in answer.out


def test_a_retraining_is_shown_with_all_that_belongs_to_it(chain: Chain, cli: Cli) -> None:
    answer = cli("show", chain.weight_rewind, "--tracking-uri", chain.uri)
    registry = chain.registry()
    run = registry.get(chain.weight_rewind)
    assert answer.out.splitlines()[0].split() == [*run.name.split(), "FINISHED"]
    shown = sections(answer.out)
    assert shown["run"][0].startswith(f"{chain.weight_rewind}  retrain, ")
    assert shown["parent"][0].startswith(f"{chain.prune}  prune 5x ")
    assert shown["dense"][0].startswith(f"{chain.dense}  dense s0 resnet8-digits ")
    assert shown["weights"] == [f"of iteration 6 of {chain.dense}"]
    assert shown["children"] == ["none"]
    words = " ".join(shown["numbers"]).split()
    assert words[words.index("test_accuracy") + 1] == f"{run.metrics['test_accuracy']:.4g}"
    assert {name for name in run.metrics if not name.startswith("system/gpu")} <= set(words)
    spec = " ".join(shown["spec"])
    assert {"k=6", "lr_k=none", "method=weight_rewind", "iterations=18"} <= set(spec.split())
    assert "None" not in spec
    assert "10 layers" in shown["layers"][0]
    assert {line.split()[1] for line in shown["files"]} == set(registry.manifest(run))


def test_the_curve_has_a_bar_for_each_evaluation(chain: Chain, cli: Cli) -> None:
    line = sections(cli("show", chain.lr_rewind, "--tracking-uri", chain.uri).out)["accuracy"][0]
    curve = chain.registry().history(chain.registry().get(chain.lr_rewind), "test_accuracy")
    assert len(line.split()[0]) == len(curve) == 3
    values = [value for _, _, value in curve]
    assert f" between {min(values):.1%} and {max(values):.1%}, " in line
    assert line.endswith(", to iteration 24")


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_shown_leads_back_to_the_run(chain: Chain, cli: Cli, stage: str) -> None:
    shown = sections(cli("show", getattr(chain, stage), "--tracking-uri", chain.uri).out)["again"]
    program, *arguments = shlex.split("\n".join(shown).replace("\\\n", ""))  # a shell joins lines so
    assert program == "rewindctl"
    assert cli(*arguments, "--tracking-uri", chain.uri).run_id == getattr(chain, stage)


def test_a_dense_run_has_no_parent_and_its_rewind_points(chain: Chain, cli: Cli) -> None:
    shown = sections(cli("show", "models:/resnet8-digits-dense@seed-0", "--tracking-uri", chain.uri).out)
    assert shown["parent"] == ["none"]
    assert shown["children"][0].startswith(f"{chain.prune}  prune 5x ")
    assert "3 checkpoints, iterations 0, 6, 12" in shown["files"][0]


def test_references_lead_to_the_same_run(chain: Chain, cli: Cli) -> None:
    whole = cli("show", chain.dense, "--tracking-uri", chain.uri)
    for reference in (chain.dense[:6], "models:/resnet8-digits-dense@seed-0"):
        assert cli("show", reference, "--tracking-uri", chain.uri) == whole


def test_json_has_everything_of_the_run(chain: Chain, cli: Cli) -> None:
    found = json.loads(cli("show", chain.prune, "--json", "--tracking-uri", chain.uri).out)
    registry = chain.registry()
    run = registry.get(chain.prune)
    assert (found["kind"], found["status"], found["name"]) == ("prune", "FINISHED", run.name)
    assert (found["params"], found["metrics"]) == (run.params, run.metrics)
    assert (found["parent_run_id"], found["dense_run_id"]) == (chain.dense, chain.dense)
    assert found["spec"] == run.spec.fields()
    assert sorted(found["children"]) == sorted([chain.finetune, chain.weight_rewind, chain.lr_rewind])
    assert found["files"] == {path: entry["size"] for path, entry in registry.manifest(run).items()}
    assert sum(layer["kept"] for layer in found["layers"]) == run.metrics["nonzero_kernel_parameters"]
    assert (found["problems"], found["error"]) == ({}, None)


# Colour


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command writes to a terminal."""
    main, side = pty.openpty()
    with open(side, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("TERM", "xterm")
        assert run_command(list(arguments)) == 0
    out = os.read(main, 100_000).decode()
    os.close(main)
    return out


def test_colour_is_for_terminals_and_never_against_no_color(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("show", chain.prune, "--tracking-uri", chain.uri)
    assert "\x1b" not in on_terminal(monkeypatch, *line)  # conftest sets NO_COLOR
    monkeypatch.delenv("NO_COLOR")
    assert on_terminal(monkeypatch, *line).startswith("\x1b[1m")


# What is wrong is said in its place


def test_an_unfinished_run_is_shown_as_far_as_it_got(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", copied_chain.dense)
    edit(copied_chain, "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", "rewindctl.error", "interrupted",
         copied_chain.dense)  # fmt: skip
    answer = cli("show", copied_chain.dense, "--tracking-uri", copied_chain.uri)
    assert answer.code == 0
    assert answer.out.splitlines()[0].split() == ["dense", "s0", "resnet8-digits", "KILLED"]
    shown = sections(answer.out)
    assert shown["error"] == ["interrupted"]
    assert shown["files"] == ["not sealed: the run is KILLED"]
    assert "safetensors" not in answer.out


def test_an_altered_manifest_is_named_and_nothing_of_it_shown(copied_chain: Chain, cli: Cli) -> None:
    (folder(copied_chain, copied_chain.prune) / "manifest.json").write_text('{"artifacts": {"evil": {"size": 1}}}')
    answer = cli("show", copied_chain.prune, "--tracking-uri", copied_chain.uri)
    shown = sections(answer.out)
    assert answer.code == 0
    assert shown["files"] == [f"the manifest of run {copied_chain.prune} was altered"]
    assert shown["layers"] == shown["files"]
    assert "evil" not in answer.out
    assert "test_accuracy" in answer.out


def test_damaged_layers_are_not_shown(copied_chain: Chain, cli: Cli) -> None:
    with (folder(copied_chain, copied_chain.prune) / "mask/layers.csv").open("a") as file:
        file.write("more,1x1,1,1,1,0,1,1\n")
    shown = sections(cli("show", copied_chain.finetune, "--tracking-uri", copied_chain.uri).out)
    assert shown["layers"][0].startswith(f"mask/layers.csv of run {copied_chain.prune} is damaged"[:67])


def test_an_edited_spec_is_named_and_the_real_one_shown(copied_chain: Chain, cli: Cli) -> None:
    change = "UPDATE tags SET value = replace(value, '0.8', '0.9') WHERE key = 'rewindctl.spec' AND run_uuid = ?"
    edit(copied_chain, change, copied_chain.prune)
    answer = cli("show", copied_chain.prune, "--tracking-uri", copied_chain.uri)
    assert f"note: run {copied_chain.prune} was edited (tag rewindctl.spec was edited" in answer.err
    assert "sparsity=0.8" in " ".join(sections(answer.out)["spec"])
    assert "--sparsity 0.8" in " ".join(sections(answer.out)["again"])


def test_a_parent_that_is_gone_is_named(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copied_chain.prune)
    answer = cli("show", copied_chain.finetune, "--tracking-uri", copied_chain.uri)
    assert answer.code == 0
    assert sections(answer.out)["parent"][0].startswith(f"the parent of run {copied_chain.finetune} is gone")


def test_a_foreign_run_is_shown(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "DELETE FROM tags WHERE run_uuid = ?", copied_chain.dense)
    answer = cli("show", copied_chain.dense, "--tracking-uri", copied_chain.uri)
    assert answer.code == 0
    shown = sections(answer.out)
    assert f"{copied_chain.dense}  foreign, " in shown["run"][0]
    assert "model=resnet8" in " ".join(shown["spec"])
