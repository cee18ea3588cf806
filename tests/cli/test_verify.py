"""Each kind of damage is found and named; an intact registry is said to be intact."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Answer, Chain, Cli
from sealing import rewrite

from rewindctl.pruning import Mask
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.runs.manifest import MASK
from rewindctl.rewinding.checkpoints import TrainState

Damage = Callable[[Chain], str]  # does the damage, returns the run that has it


def folder(chain: Chain, run_id: str) -> Path:
    return Path(Registry(chain.uri).get(run_id).artifact_uri.removeprefix("file://"))


def edit_database(chain: Chain, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def flip_a_bit(chain: Chain) -> str:
    path = folder(chain, chain.dense) / "checkpoints" / "final.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return chain.dense


def truncate(chain: Chain) -> str:
    path = folder(chain, chain.prune) / "mask" / "mask.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return chain.prune


def remove_a_file(chain: Chain) -> str:
    (folder(chain, chain.lr_rewind) / "checkpoints" / "final.safetensors").unlink()
    return chain.lr_rewind


def swap_between_runs(chain: Chain) -> str:
    one, other = (folder(chain, run) / "checkpoints" / "final.safetensors" for run in (chain.lr_rewind, chain.finetune))
    one.write_bytes(other.read_bytes())
    return chain.lr_rewind


def edit_the_spec(chain: Chain) -> str:
    path = folder(chain, chain.dense) / "spec.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    return chain.dense


def edit_the_fingerprint(chain: Chain) -> str:
    statement = "UPDATE tags SET value = ? WHERE key = 'rewindctl.fingerprint' AND run_uuid = ?"
    edit_database(chain, statement, "0" * 64, chain.finetune)
    return chain.finetune


def edit_a_param(chain: Chain) -> str:
    edit_database(chain, "UPDATE params SET value = ? WHERE key = 'seed' AND run_uuid = ?", "7", chain.dense)
    return chain.dense


def edit_the_group(chain: Chain) -> str:
    statement = "UPDATE tags SET value = ? WHERE key = 'rewindctl.group' AND run_uuid = ?"
    edit_database(chain, statement, "0" * 64, chain.prune)
    return chain.prune


def edit_the_parent(chain: Chain) -> str:
    statement = "UPDATE tags SET value = ? WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
    edit_database(chain, statement, chain.dense, chain.finetune)
    return chain.finetune


def add_a_file(chain: Chain) -> str:
    (folder(chain, chain.finetune) / "mask").mkdir()
    (folder(chain, chain.finetune) / "mask" / "extra.txt").write_text("x")
    return chain.finetune


def remove_the_manifest(chain: Chain) -> str:
    (folder(chain, chain.weight_rewind) / "manifest.json").unlink()
    return chain.weight_rewind


def log_a_metric(chain: Chain) -> str:
    from mlflow import MlflowClient

    MlflowClient(chain.uri).log_metric(chain.finetune, "test_accuracy", 1.0, step=25)
    return chain.finetune


DAMAGES = [
    (flip_a_bit, "checkpoints/final.safetensors"),
    (truncate, "mask/mask.safetensors"),
    (remove_a_file, "checkpoints/final.safetensors"),
    (swap_between_runs, "checkpoints/final.safetensors"),
    (edit_the_spec, "spec.json"),
    (edit_the_fingerprint, "fingerprint"),
    (edit_a_param, "param seed"),
    (edit_the_group, "group"),
    (edit_the_parent, "parent"),
    (add_a_file, "mask/extra.txt"),
    (remove_the_manifest, "manifest.json"),
    (log_a_metric, "metric test_accuracy"),
]


def verify(cli: Cli, chain: Chain, *arguments: str) -> Answer:
    return cli("verify", *arguments, "--tracking-uri", chain.uri)


def test_an_intact_registry_is_intact(cli: Cli, chain: Chain) -> None:
    answer = verify(cli, chain, "--all")
    assert (answer.code, answer.out) == (0, "")
    assert "5 of 5 runs are intact" in answer.err
    one = verify(cli, chain, chain.lr_rewind)
    assert (one.code, one.err) == (0, "1 of 1 run is intact\n")


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damage_is_found_and_named(cli: Cli, copied_chain: Chain, damage: Damage, named: str) -> None:
    run_id = damage(copied_chain)
    one = verify(cli, copied_chain, run_id)
    assert one.code == 1
    assert any(line.startswith(run_id) and named in line for line in one.out.splitlines()), one.out
    everything = verify(cli, copied_chain, "--all", "--json")
    assert everything.code == 1
    assert run_id in {entry["run_id"] for entry in json.loads(everything.out) if entry["problems"]}


def test_weights_that_come_back_are_found_even_with_a_matching_digest(cli: Cli, copied_chain: Chain) -> None:
    """A forger who rewrites checkpoint, manifest and its tag still has a removed weight that is not 0."""
    import hashlib

    path = folder(copied_chain, copied_chain.lr_rewind) / "checkpoints" / "final.safetensors"
    state = TrainState.load(path)
    kernel = state.parameters["blocks.2.conv1.weight"]
    kernel[kernel == 0] = 1e-3
    state.save(path)
    manifest = path.parents[1] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["artifacts"]["checkpoints/final.safetensors"] |= {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }
    manifest.write_text(json.dumps(content))
    statement = "UPDATE tags SET value = ? WHERE key = 'rewindctl.manifest' AND run_uuid = ?"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    edit_database(copied_chain, statement, digest, copied_chain.lr_rewind)
    answer = verify(cli, copied_chain, copied_chain.lr_rewind)
    assert answer.code == 1
    assert "removed weights of blocks.2.conv1.weight are not 0" in answer.out


def test_an_excluded_layer_that_lost_weights_is_found(cli: Cli, copied_chain: Chain, tmp_path: Path) -> None:
    """As many go elsewhere: only the layers tell."""
    uri = ("--tracking-uri", copied_chain.uri)
    made = cli("prune", "--parent", copied_chain.dense, "--sparsity", "0.5", "--exclude", "stem", *uri).run_id
    registry = copied_chain.registry()
    run = registry.get(made)
    mask = Mask.load(registry.artifact(run, MASK))
    kernels = {name: kept.clone() for name, kept in mask.kernels.items()}
    gone = kernels["dense.weight"].logical_not().nonzero()[0]
    kernels["dense.weight"][tuple(gone)] = True
    kernels["stem.weight"].view(-1)[0] = False
    Mask(kernels).save(tmp_path / "mask")
    assert verify(cli, copied_chain, made).code == 0
    rewrite(registry, run, MASK, (tmp_path / "mask").read_bytes())
    answer = verify(cli, copied_chain, made)
    assert answer.code == 1
    assert "the mask removes weights of stem.weight, which its spec excludes" in answer.out + answer.err


def test_a_run_or_all_must_be_given(cli: Cli, chain: Chain) -> None:
    assert verify(cli, chain).code == 2
    assert verify(cli, chain, chain.dense, "--all").code == 2


def test_an_unfinished_run_is_not_intact(cli: Cli, copied_chain: Chain) -> None:
    edit_database(copied_chain, "UPDATE runs SET status = ? WHERE run_uuid = ?", "RUNNING", copied_chain.dense)
    answer = verify(cli, copied_chain, copied_chain.dense)
    assert answer.code == 1
    assert "RUNNING" in answer.out


def test_records_are_read_whole(chain: Chain) -> None:
    runs: list[RunRecord] = chain.registry().search()
    assert all(run.ended >= run.started > 0 for run in runs)
