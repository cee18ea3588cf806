"""What is known of a run, and that its spec is the one its fingerprint names."""

import json
from dataclasses import replace

import pytest
from conftest import Chain

from rewindctl.errors import IntegrityError
from rewindctl.registry import RunRecord
from rewindctl.registry.records import FINGERPRINT, SPEC
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec


@pytest.fixture(scope="module")
def dense(chain: Chain) -> RunRecord:
    return chain.registry().get(chain.dense)


def with_tags(run: RunRecord, **tags: str) -> RunRecord:
    return replace(run, tags=run.tags | {f"rewindctl.{key}": value for key, value in tags.items()})


def test_each_kind_has_its_spec(chain: Chain) -> None:
    registry = chain.registry()
    runs = [registry.get(run) for run in (chain.dense, chain.prune, chain.lr_rewind)]
    assert [run.kind for run in runs] == ["dense", "prune", "retrain"]
    assert [type(run.spec) for run in runs] == [DenseSpec, PruneSpec, RetrainSpec]
    assert all(run.spec.fingerprint() == run.fingerprint == run.tags[FINGERPRINT] for run in runs)


def test_every_descendant_knows_its_dense_run(chain: Chain) -> None:
    registry = chain.registry()
    for run in (chain.dense, chain.prune, chain.finetune, chain.weight_rewind, chain.lr_rewind):
        assert registry.get(run).dense_run_id == chain.dense


def test_an_edited_fingerprint_is_found_out(dense: RunRecord) -> None:
    with pytest.raises(IntegrityError, match=dense.run_id):
        _ = with_tags(dense, fingerprint="0" * 64).spec


@pytest.mark.parametrize("field", ["seed", "iterations", "batch_size"])
def test_an_edited_spec_is_found_out(dense: RunRecord, field: str) -> None:
    fields = json.loads(dense.tags[SPEC])
    fields[field] += 1
    with pytest.raises(IntegrityError, match="one of the two was edited"):
        _ = with_tags(dense, spec=json.dumps(fields)).spec


@pytest.mark.parametrize(
    "change", [{"schema_version": 3}, {"kind": "tune"}, {"unheard_of": 1}, {"iterations": 0}, {"seed": "zero"}]
)
def test_what_is_no_spec_of_this_schema_is_refused_by_name(dense: RunRecord, change: dict[str, object]) -> None:
    text = json.dumps(json.loads(dense.tags[SPEC]) | change)
    with pytest.raises(IntegrityError, match=f"the spec of run {dense.run_id} is not a spec of schema 1 or 2"):
        _ = with_tags(dense, spec=text).spec


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_spec_that_is_no_json_object_is_refused(dense: RunRecord, text: str) -> None:
    with pytest.raises(IntegrityError, match="is not a spec"):
        _ = with_tags(dense, spec=text).spec


def test_a_foreign_run_is_of_no_kind() -> None:
    run = RunRecord("f" * 32, "", "FINISHED", "", 0, 0, {}, {}, {})
    assert (run.kind, run.fingerprint, run.group, run.parent_id) == ("", "", "", None)
    with pytest.raises(IntegrityError):
        _ = run.spec


def test_only_finished_is_finished(dense: RunRecord) -> None:
    assert dense.finished
    assert not any(replace(dense, status=status).finished for status in ("RUNNING", "FAILED", "KILLED", "SCHEDULED"))


def test_the_short_form_is_the_name_and_the_first_digits(dense: RunRecord) -> None:
    assert dense.short == f"dense s0 resnet8-digits ({dense.run_id[:8]})"
