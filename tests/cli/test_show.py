"""rewindctl show"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conftest import Chain, Cli


def test_a_run_is_shown_with_its_parent_metrics_params_and_artifacts(chain: Chain, cli: Cli) -> None:
    answer = cli("show", chain.weight_rewind, "--tracking-uri", chain.uri)
    run = chain.registry().get(chain.weight_rewind)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "weight_rewind k=6 5x s0 resnet8-digits  FINISHED"
    assert lines[1].split() == ["run", chain.weight_rewind]
    assert lines[2].split() == ["parent", chain.prune]
    words = [line.split() for line in lines[3:]]
    assert ["k", "6"] in words
    assert ["test_accuracy", f"{run.metrics['test_accuracy']:.6g}"] in words
    assert {name for _, name in words[-3:]} == set(chain.registry().manifest(run))


def test_a_dense_run_has_no_parent(chain: Chain, cli: Cli) -> None:
    answer = cli("show", "models:/resnet8-digits-dense@seed-0", "--tracking-uri", chain.uri)
    assert answer.out.splitlines()[2].split() == ["parent", "none"]


def test_references_lead_to_the_same_run(chain: Chain, cli: Cli) -> None:
    whole = cli("show", chain.dense, "--tracking-uri", chain.uri)
    for reference in (chain.dense[:6], "models:/resnet8-digits-dense@seed-0"):
        assert cli("show", reference, "--tracking-uri", chain.uri) == whole


def test_json_has_everything_of_the_run(chain: Chain, cli: Cli) -> None:
    found = json.loads(cli("show", chain.prune, "--json", "--tracking-uri", chain.uri).out)
    run = chain.registry().get(chain.prune)
    assert (found["kind"], found["status"], found["name"]) == ("prune", "FINISHED", run.name)
    assert (found["params"], found["metrics"]) == (run.params, run.metrics)
    assert (found["parent_run_id"], found["dense_run_id"]) == (chain.dense, chain.dense)


def test_an_unfinished_run_is_shown_as_far_as_it_got(copied_chain: Chain, cli: Cli) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        connection.execute("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", (copied_chain.dense,))
    answer = cli("show", copied_chain.dense, "--tracking-uri", copied_chain.uri)
    assert answer.code == 0
    assert answer.out.startswith("dense s0 resnet8-digits  KILLED\n")
    assert "safetensors" not in answer.out


def test_an_altered_manifest_is_not_shown(copied_chain: Chain, cli: Cli) -> None:
    run = copied_chain.registry().get(copied_chain.dense)
    (Path(unquote(urlsplit(run.artifact_uri).path)) / "manifest.json").write_text("{}")
    answer = cli("show", copied_chain.dense, "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert f"the manifest of run {copied_chain.dense} was altered" in answer.err
