"""A finished run is what it was sealed with: whatever MLflow is told afterwards is seen, named, and not believed."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lengths
import pytest
from conftest import TINY, Chain, Cli

from rewindctl.checks.verify import verify
from rewindctl.errors import IntegrityError
from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import RECORD_FILE, digest_of, make_record
from rewindctl.report.frame import tidy_frame

EDITED_TAGS = {
    tag.SEED: "7",
    tag.METHOD: "finetune",
    tag.MODEL: "resnet20",
    tag.DATASET: "cifar10",
    tag.SPARSITY: "0.5",
    tag.STRUCTURE: "structured",
    tag.PRECISION: "bf16",
    tag.GROUP: "0" * 64,
    tag.FINGERPRINT: "0" * 64,
    tag.KIND: "prune",
    tag.DEVICE: "another",
    tag.SPEC: "{}",
}


def edit(chain: Chain, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(statement, values).rowcount >= 1


def accuracies(registry: Registry) -> dict[str, float]:
    rows = tidy_frame(registry)
    return dict(zip(rows["run_id"], rows["test_accuracy"], strict=True))


def test_every_sealed_run_has_the_digest_of_what_the_store_shows(chain: Chain) -> None:
    for run in chain.registry().search():
        record = chain.registry().record(run)
        assert record is not None
        assert record.digest() == run.tags[tag.RECORD] == digest_of(run.tags, run.metrics)
        assert {key: list(history) for key, history in record.metrics.items()} == {
            key: sorted(chain.registry().shown_history(run, key)) for key in run.metrics
        }
        assert run.edits == ()


@pytest.mark.parametrize("key", EDITED_TAGS)
def test_an_edited_tag_is_named_and_not_believed(copied_chain: Chain, key: str) -> None:
    before = tidy_frame(copied_chain.registry())
    was = copied_chain.registry().get(copied_chain.lr_rewind).tags.get(key)
    copied_chain.registry().client.set_tag(copied_chain.lr_rewind, key, EDITED_TAGS[key])
    run = copied_chain.registry().get(copied_chain.lr_rewind)
    assert run.tags.get(key) == was
    assert any(key in line for line in verify(copied_chain.registry(), run))
    if key not in (tag.MODEL, tag.DATASET):  # the store is searched by these two: the run is not among those found
        assert tidy_frame(copied_chain.registry()).equals(before)


def test_a_fingerprint_copied_to_another_run_does_not_make_it_that_experiment(cli: Cli, copied_chain: Chain) -> None:
    """As somebody might who wants a result: the tags of an experiment on a run of another."""
    registry = copied_chain.registry()
    wanted = registry.get(copied_chain.finetune)
    for key in (tag.FINGERPRINT, tag.SPEC, tag.GROUP, tag.METHOD):
        registry.client.set_tag(copied_chain.lr_rewind, key, wanted.tags[key])
    registry.client.delete_run(copied_chain.finetune)
    answer = cli(
        *("retrain", "--parent", copied_chain.prune, "--method", "finetune", "--tracking-uri", copied_chain.uri)
    )
    assert answer.code == 0
    assert answer.run_id not in (copied_chain.finetune, copied_chain.lr_rewind)
    assert f"note: run {copied_chain.lr_rewind} was edited (tag rewindctl.fingerprint" in answer.err


def test_a_back_dated_metric_changes_no_result(cli: Cli, copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    before, run = accuracies(registry), registry.get(copied_chain.lr_rewind)
    curve = registry.curve(run, "test_accuracy")
    for step in (24, 25):
        registry.client.log_metric(run.run_id, "test_accuracy", 0.999, run.started + 1, step)
    assert accuracies(copied_chain.registry()) == before
    assert copied_chain.registry().curve(run, "test_accuracy") == curve
    answer = cli("verify", run.run_id, "--tracking-uri", copied_chain.uri)
    assert answer.code == 1
    assert "metric test_accuracy was edited: it is 0.999, was" in answer.out
    assert "metric test_accuracy at step 24 is not what was recorded" in answer.out


def test_a_point_put_into_the_middle_of_a_curve_is_named(copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    run = registry.get(copied_chain.lr_rewind)
    registry.client.log_metric(run.run_id, "test_accuracy", 0.999, run.started + 1, 5)
    found = verify(copied_chain.registry(), registry.get(run.run_id))
    assert found == ["metric test_accuracy at step 5 is not what was recorded"]


def test_who_takes_the_digest_away_or_forges_it_is_found_out(copied_chain: Chain) -> None:
    client = copied_chain.registry().client
    client.set_tag(copied_chain.finetune, tag.SEED, "7")
    client.delete_tag(copied_chain.finetune, tag.RECORD)
    found = verify(copied_chain.registry(), copied_chain.registry().get(copied_chain.finetune))
    assert found == ["tag rewindctl.record was removed", "tag rewindctl.seed was edited: it is '7', was '0'"]
    client.set_tag(copied_chain.lr_rewind, tag.SEED, "7")
    shown = client.get_run(copied_chain.lr_rewind).data
    client.set_tag(copied_chain.lr_rewind, tag.RECORD, digest_of(shown.tags, shown.metrics))
    found = copied_chain.registry().get(copied_chain.lr_rewind)
    assert "tag rewindctl.seed was edited: it is '7', was '0'" in verify(copied_chain.registry(), found)


def test_a_run_that_is_called_finished_and_was_not_is_damaged(cli: Cli, copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    for key in (tag.MANIFEST, tag.RECORD):
        registry.client.delete_tag(copied_chain.prune, key)
    with pytest.raises(IntegrityError, match=f"run {copied_chain.prune} is damaged"):
        copied_chain.registry().get(copied_chain.prune).metric("test_accuracy")
    answer = cli("prune", "--parent", copied_chain.dense, "--compression", "5", "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert f"run {copied_chain.prune} is damaged: " in answer.err
    again = cli(
        *("prune", "--parent", copied_chain.dense, "--compression", "5", "--force"),
        "--tracking-uri",
        str(copied_chain.uri),
    )
    assert again.code == 0, "as the hint says"


def test_a_run_without_its_accuracy_is_damaged_not_a_defect(cli: Cli, copied_chain: Chain) -> None:
    edit(copied_chain, "DELETE FROM latest_metrics WHERE run_uuid = ? AND key = 'test_accuracy'", copied_chain.dense)
    at = ("--tracking-uri", copied_chain.uri)
    answer = cli("train-dense", *TINY, "--seed", "0", *at)
    assert (answer.code, answer.run_id) == (0, copied_chain.dense), "the record has it"
    (
        Path(Registry(copied_chain.uri).get(copied_chain.dense).artifact_uri.removeprefix("file://")) / RECORD_FILE
    ).unlink()
    answer = cli("train-dense", *TINY, "--seed", "0", *at)
    assert (answer.code, answer.out) == (1, "")
    assert f"run {copied_chain.dense} is damaged: {RECORD_FILE} of run {copied_chain.dense} is missing" in answer.err


def test_a_foreign_run_is_what_mlflow_says_of_it(copied_chain: Chain) -> None:
    edit(copied_chain, "DELETE FROM tags WHERE run_uuid = ?", copied_chain.dense)
    registry = copied_chain.registry()
    run = registry.get(copied_chain.dense)
    assert (run.edits, run.damage, len(registry.curve(run, "test_accuracy"))) == ((), "", 3)


Change = Callable[[Registry, Chain], None]


def weights_from_elsewhere(registry: Registry, chain: Chain) -> None:
    registry.client.set_tag(chain.weight_rewind, tag.WEIGHTS_FROM, f"{chain.dense}@12")


def weights_from_nowhere(registry: Registry, chain: Chain) -> None:
    registry.client.delete_tag(chain.weight_rewind, tag.WEIGHTS_FROM)


@pytest.mark.parametrize("change", [weights_from_elsewhere, weights_from_nowhere])
def test_where_the_weights_are_from_is_verified(copied_chain: Chain, change: Change) -> None:
    change(copied_chain.registry(), copied_chain)
    (line,) = verify(copied_chain.registry(), copied_chain.registry().get(copied_chain.weight_rewind))
    assert line.endswith(f"it started from iteration 6 of run {copied_chain.dense}")


def test_the_dense_run_is_the_one_at_the_end_of_the_parents(copied_chain: Chain) -> None:
    """Not the one that a tag names: rewinding to another's weights would be a wrong result."""
    copied_chain.registry().client.set_tag(copied_chain.prune, tag.DENSE_RUN, copied_chain.lr_rewind)
    registry = copied_chain.registry()
    assert registry.root(registry.get(copied_chain.finetune)).run_id == copied_chain.dense


def test_a_training_with_a_hole_in_its_curve_is_found(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewindctl.registry.runs.writer import RunWriter

    log_metrics = RunWriter.log_metrics

    def losing(self: RunWriter, metrics: dict[str, float | None], step: int = 0) -> None:
        if step != 12 or "lr" not in metrics:
            log_metrics(self, metrics, step)

    monkeypatch.setattr(RunWriter, "log_metrics", losing)
    run_id = cli("train-dense", *TINY).run_id
    registry = Registry(f"sqlite:///{store}")
    assert verify(registry, registry.get(run_id)) == ["metric test_accuracy has no value at iteration 12"]


def test_nothing_is_left_to_a_queue_of_mlflow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With $MLFLOW_ENABLE_ASYNC_LOGGING it would return before anything is written, and lose what a server refuses."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    registry = Registry(f"sqlite:///{store}")
    writer = registry.start(lengths.spec_of(1), "a run", None, {})
    writer.log_metrics({"test_accuracy": 0.5}, 3)
    writer.tag({"rewindctl.word": "said"})
    data = Registry(f"sqlite:///{store}").get(writer.run_id)
    assert (data.metrics["test_accuracy"], data.tags["rewindctl.word"]) == (0.5, "said")
    writer.fail(KeyboardInterrupt())
    assert not [thread for thread in threading.enumerate() if "Async" in thread.name]


def test_a_spec_of_any_length_is_whole(store: Path) -> None:
    lengths.check(f"sqlite:///{store}", "lengths")


def test_the_newest_is_the_last_to_begin_whatever_the_clocks_say(cli: Cli, copied_chain: Chain) -> None:
    at = ("--tracking-uri", copied_chain.uri)
    edit(copied_chain, "UPDATE runs SET start_time = start_time + 86400000 WHERE run_uuid = ?", copied_chain.dense)
    forced = cli("train-dense", *TINY, "--seed", "0", "--force", *at).run_id
    assert forced not in ("", copied_chain.dense)
    assert cli("train-dense", *TINY, "--seed", "0", *at).run_id == forced
    registry = copied_chain.registry()
    assert registry.resolve("models:/resnet8-digits-dense@seed-0").run_id == forced
    rows = tidy_frame(registry)
    assert rows.loc[rows["method"] == "none", "run_id"].tolist() == [forced]


def test_a_record_says_the_same_of_the_same() -> None:
    """Zeros of either sign, an empty tag, tags of others and the order of what came in make no difference."""
    points = {"a": {2: (9, -0.0), 1: (5, 1.0)}, "b": {}}
    one = make_record({"rewindctl.seed": "0", "rewindctl.spared_layers": "", "mlflow.user": "me"}, points)
    other = make_record({"rewindctl.seed": "0", tag.OWNER: "host:1"}, {"a": {1: (5, 1.0), 2: (9, 0.0)}})
    assert one.text() == other.text()
    assert one.digest() == other.digest() == digest_of({"rewindctl.seed": "0"}, {"a": 0.0})
    assert one.last() == {"a": 0.0}
