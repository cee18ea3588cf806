"""What is read from the tables of a database is what MLflow's own search answers."""

import math

import pytest
from conftest import Chain
from mlflow import MlflowClient
from registry.test_registry import MANY, copies

from rewindctl.registry import records as tag
from rewindctl.registry.runs import reading
from rewindctl.registry.runs.reading import ACTIVE, ANY, BOTH, DELETED, _from_tables, _through_api
from rewindctl.registry.store.connect import connect


@pytest.mark.parametrize("few", [0, reading.FEW], ids=["many", "few"])
@pytest.mark.parametrize("prefix", ["", "the run's"])
@pytest.mark.parametrize("key", ["", tag.SCHEMA, tag.KIND, tag.PARENT, tag.FINGERPRINT, "none has this"])
def test_tables_and_api_answer_the_same(
    chain: Chain, key: str, prefix: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FEW", few)
    client = connect(chain.uri)
    run = client.get_run(chain.prune)
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    tags = {key: run.data.tags.get(key, "x")} if key else {}
    start = run.info.run_id[:6] if prefix else ""
    from_tables = _from_tables(client.engine, every, tags, start, ACTIVE)
    assert from_tables == _through_api(client, every, tags, start, ACTIVE)
    assert bool(from_tables) == (key != "none has this")


def test_odd_values_are_read_as_they_are(copied_chain: Chain) -> None:
    writer, odd = MlflowClient(copied_chain.uri), 'it\'s "100%" `odd`_\n\x07 ü'
    run = writer.create_run("0", run_name="", tags={"odd": odd})
    for name, value in (("nan", math.nan), ("inf", math.inf), ("least", -math.inf), ("n", 1.5)):
        writer.log_metric(run.info.run_id, name, 0.0, step=0)
        writer.log_metric(run.info.run_id, name, value, step=1)
    writer.log_param(run.info.run_id, "p", odd)
    client = connect(copied_chain.uri)
    (found,) = _from_tables(client.engine, ["0"], {"odd": odd}, "", ACTIVE)
    (same,) = _through_api(client, ["0"], {}, run.info.run_id, ACTIVE)
    assert repr(found.metrics) == repr(same.metrics)
    assert (found.tags, found.params) == (same.tags, same.params)


def test_deleted_runs_and_other_experiments_are_not_found(copied_chain: Chain) -> None:
    client, registry = connect(copied_chain.uri), copied_chain.registry()
    every = len(registry.search())
    client.delete_run(copied_chain.lr_rewind)
    assert len(registry.search()) == every - 1
    for view in (ACTIVE, DELETED, BOTH):
        arguments = ([registry.experiment_id], {tag.SCHEMA: ANY}, "", view)
        found = _from_tables(client.engine, *arguments)
        assert found == _through_api(client, *arguments)
        assert len(found) == {ACTIVE: every - 1, DELETED: 1, BOTH: every}[view]
    assert _from_tables(client.engine, ["0"], {tag.SCHEMA: ANY}, "", BOTH) == []
    assert _from_tables(client.engine, [], {tag.SCHEMA: ANY}, "", BOTH) == []


def test_the_api_is_read_to_its_last_page(copied_chain: Chain) -> None:
    copies(copied_chain.store, copied_chain.dense)
    client, experiment = connect(copied_chain.uri), copied_chain.registry().experiment_id
    found = _through_api(client, [experiment], {tag.SCHEMA: ANY}, "", ACTIVE)
    assert len({run.run_id for run in found}) == MANY + 5
