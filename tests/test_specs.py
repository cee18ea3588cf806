"""A fingerprint is the experiment: what decides its bytes is in it, nothing else is, and it stays what it was."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rewindctl.errors import IntegrityError, UsageError
from rewindctl.specs import (
    DenseSpec,
    PruneSpec,
    ReplaySpec,
    RetrainSpec,
    Spec,
    canonical_json,
    make_spec,
    parse_spec,
    upgraded,
    usual_name,
)

DENSE = DenseSpec(
    model="resnet20",
    dataset="cifar10",
    data_digest="d" * 64,
    recipe="resnet",
    seed=3,
    iterations=72_000,
    batch_size=128,
    learning_rate=0.1,
    lr_boundaries=(36_000, 54_000),
    lr_factor=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=2e-4,
    weight_decay_scope="all",
    norm_momentum=0.003,
    norm_epsilon=1e-5,
    crop_padding=4,
    padding_mode="reflect",
    horizontal_flip=True,
    evaluate_every=2_000,
    rewind_points=(0, 500, 2_000, 72_000),
)
PRUNE = PruneSpec(parent_fingerprint="a" * 64, sparsity=0.893)
RETRAIN = RetrainSpec(
    parent_fingerprint="b" * 64,
    method="weight_rewind",
    k=2_000,
    weights_iteration=2_000,
    clock_start=2_000,
    iterations=70_000,
    schedule_iterations=72_000,
    constant_lr=None,
    evaluate_every=2_000,
)
REPLAY = ReplaySpec(parent_fingerprint="c" * 64, iteration=2_345, from_iteration=2_000, evaluate_every=2_000)
# Runs in registries have these fingerprints: they may change only together with SCHEMA_VERSION.
PINNED = {
    1: {
        "dense": "b98776ab6207410dc87dc505269c91e39deaca71fc753f83bcafbfdd12932442",
        "prune": "0daf46526d6b0168f78fda7da0a408a8a669fb484afb0c0125fe61f01337858d",
        "retrain": "f5d969d8e9c325bd3142ec4a6644933bfc81e1e40be14edd7844911c274d17e8",
    },
    2: {
        "dense": "912a089c645a5429de24435b0f7b642a3e2610c58edac0fbb28ef2d28b1adf9e",
        "prune": "dd98017fe0401286b523786a3ba84d5594d93570274d19685d25ab42c666c2ac",
        "retrain": "ce96157545ef6ec733e20fc72ae60df8e3d053b99ad87642dece2c4e833fbd6e",
        "replay": "3888fa36828a90ae93f261f37ca15c59a34f788600f6d69cbe7b45304f736a6a",
    },
}
SPECS: dict[str, Spec] = {"dense": DENSE, "prune": PRUNE, "retrain": RETRAIN, "replay": REPLAY}
RECORDING = {
    "dense": {"evaluate_every", "rewind_points"},
    "prune": set[str](),
    "retrain": {"evaluate_every", "rewind_points"},
    "replay": {"evaluate_every", "from_iteration"},
}
FIELDS = [(kind, field) for kind, spec in SPECS.items() for field in type(spec).model_fields]


def another(value: Any) -> Any:
    """A value of the same type, another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, 72_001)
    return 1 if value is None else value + 1


def fields_of(spec: Spec) -> dict[str, Any]:
    """The fields as `make_spec` takes them: the kind is the class."""
    return {name: value for name, value in spec.model_dump().items() if name != "kind"}


def copy(spec: Spec, **changes: Any) -> Spec:
    return spec.model_copy(update=changes)


@pytest.mark.parametrize(("schema", "kind"), [(schema, kind) for schema, pins in PINNED.items() for kind in pins])
def test_fingerprint_is_what_it_was_when_runs_were_recorded(schema: int, kind: str) -> None:
    assert copy(SPECS[kind], schema_version=schema).fingerprint() == PINNED[schema][kind]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_fingerprint_changes_with_every_field_that_decides_bytes_and_with_no_other(kind: str, field: str) -> None:
    spec = SPECS[kind]
    changed = copy(spec, **{field: another(getattr(spec, field))})
    assert (changed.fingerprint() == spec.fingerprint()) == (field in RECORDING[kind])


@pytest.mark.parametrize("kind", PINNED[1])
def test_a_spec_of_schema_1_is_read_as_it_was_and_is_todays_experiment(kind: str) -> None:
    old = copy(SPECS[kind], schema_version=1)
    again = parse_spec(old.canonical(), "here")
    assert (again.canonical(), again.fingerprint()) == (old.canonical(), PINNED[1][kind])
    assert "data_order" not in json.loads(old.canonical())
    parent = getattr(SPECS[kind], "parent_fingerprint", None)
    assert upgraded(again, parent) == SPECS[kind]
    assert upgraded(SPECS[kind], "other") == SPECS[kind]  # type: ignore[arg-type]


def test_one_experiment_has_one_name() -> None:
    rewind = fields_of(copy(RETRAIN, method="rewind", k=None, weights_k=2_000, lr_k=2_000))
    assert RetrainSpec(**usual_name(rewind)).fingerprint() == RETRAIN.fingerprint()
    whole = {"weights_iteration": 72_000, "clock_start": 0, "iterations": 72_000, "k": None}
    trained = fields_of(copy(RETRAIN, method="rewind", weights_k=72_000, lr_k=0, **whole))
    lr_rewind = copy(RETRAIN, method="lr_rewind", **whole)
    assert RetrainSpec(**usual_name(trained)).fingerprint() == lr_rewind.fingerprint()
    between = fields_of(copy(RETRAIN, method="rewind", k=None, weights_k=2_000, lr_k=0, clock_start=0))
    assert usual_name(between) == between
    zero = {"k": 0, "weights_iteration": 0, "clock_start": 0, "iterations": 72_000}
    restarted, rewound = (fields_of(copy(RETRAIN, lr_clock=clock, **zero)) for clock in ("restarted", "rewound"))
    assert usual_name(restarted) == rewound
    old = copy(RETRAIN, schema_version=1, method="rewind", k=None, weights_k=2_000, lr_k=2_000)
    assert upgraded(old, RETRAIN.parent_fingerprint) == RETRAIN  # type: ignore[arg-type]


def test_equal_exclusions_are_one_experiment_and_none_is_not_written() -> None:
    fields = fields_of(PRUNE)
    one, same = (PruneSpec(**fields | {"exclude": layers}) for layers in (("stem", "dense"), ("dense", "stem", "stem")))
    assert one == same
    assert one.fingerprint() != PRUNE.fingerprint()
    assert parse_spec(one.canonical(), "here") == one
    assert "exclude" not in json.loads(PRUNE.canonical())


@pytest.mark.parametrize("kind", SPECS)
def test_defaults_are_in_the_fingerprint_as_any_value_is(kind: str) -> None:
    spec = SPECS[kind]
    assert set(json.loads(spec.canonical())) == set(type(spec).model_fields) - set(spec.LATER)
    assert type(spec)(**spec.model_dump()).fingerprint() == spec.fingerprint()


@pytest.mark.parametrize("kind", SPECS)
def test_fingerprint_does_not_depend_on_the_order_of_the_fields(kind: str) -> None:
    fields = list(SPECS[kind].model_dump(mode="json").items())
    for seed in range(5):
        random.Random(seed).shuffle(fields)
        assert type(SPECS[kind])(**dict(fields)).fingerprint() == SPECS[kind].fingerprint()
        assert parse_spec(json.dumps(dict(fields)), "here").fingerprint() == SPECS[kind].fingerprint()


def test_the_same_number_in_another_form_is_the_same_experiment() -> None:
    lists = fields_of(DENSE) | {"lr_boundaries": [36_000, 54_000], "learning_rate": 0.10, "batch_size": 128.0}
    assert DenseSpec(**lists).fingerprint() == DENSE.fingerprint()
    assert (
        make_spec(DenseSpec, **lists | {"learning_rate": 1}).fingerprint()
        == copy(DENSE, learning_rate=1.0).fingerprint()
    )


def test_fingerprint_of_the_parent_is_in_that_of_the_child() -> None:
    grandchild = copy(RETRAIN, parent_fingerprint=copy(PRUNE, parent_fingerprint=DENSE.fingerprint()).fingerprint())
    other_root = copy(PRUNE, parent_fingerprint=copy(DENSE, seed=4).fingerprint())
    assert copy(RETRAIN, parent_fingerprint=other_root.fingerprint()).fingerprint() != grandchild.fingerprint()


@settings(deadline=None)
@given(sparsity=st.floats(0, 1, exclude_min=True, exclude_max=True), rate=st.floats(1e-300, 1e300))
def test_canonical_json_gives_the_spec_back_to_the_last_bit(sparsity: float, rate: float) -> None:
    for spec in (copy(PRUNE, sparsity=sparsity), copy(RETRAIN, constant_lr=rate), copy(DENSE, learning_rate=rate)):
        again = parse_spec(spec.canonical(), "here")
        assert again == spec
        assert again.fingerprint() == spec.fingerprint()


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_specs_are_frozen(kind: str, field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(SPECS[kind], field, another(getattr(SPECS[kind], field)))


def test_no_field_can_be_changed_from_inside() -> None:
    mutable = (list, dict, set, bytearray)
    assert not [field for kind, field in FIELDS if isinstance(getattr(SPECS[kind], field), mutable)]
    hash(DENSE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, field in FIELDS if isinstance(getattr(SPECS[kind], field), float)]
    + [("retrain", "constant_lr")],
)
def test_nan_and_infinity_are_refused_in_every_number(kind: str, field: str, value: float) -> None:
    spec = SPECS[kind]
    with pytest.raises(UsageError, match=field):
        make_spec(type(spec), **fields_of(spec) | {field: value})
    with pytest.raises(IntegrityError, match=field):
        parse_spec(json.dumps(spec.model_dump() | {field: value}), "here")


def test_canonical_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": math.nan})


@pytest.mark.parametrize("kind", SPECS)
def test_unknown_and_missing_fields_are_refused(kind: str) -> None:
    fields = fields_of(SPECS[kind])
    with pytest.raises(UsageError, match="device = 1: extra"):
        make_spec(type(SPECS[kind]), **fields, device=1)
    with pytest.raises(IntegrityError, match="device"):
        parse_spec(json.dumps(fields | {"kind": kind, "device": 1}), "here")
    del fields[{"dense": "momentum", "prune": "sparsity"}.get(kind, "evaluate_every")]
    with pytest.raises(UsageError, match=r"^(evaluate_every|sparsity|momentum): field required$"):
        make_spec(type(SPECS[kind]), **fields)


OUT_OF_RANGE: list[tuple[str, str, Any]] = [
    *(("dense", field, 0) for field in ("iterations", "batch_size", "learning_rate", "lr_factor", "evaluate_every")),
    *(("dense", "seed", value) for value in (-1, 2**32, 0.5)),
    *(("dense", "momentum", value) for value in (-0.1, 1)),
    ("dense", "weight_decay", -1e-9),
    ("dense", "norm_momentum", 0),
    ("dense", "norm_epsilon", 0),
    ("dense", "crop_padding", -1),
    ("dense", "padding_mode", "zeros"),
    ("dense", "schema_version", 3),
    *(("replay", field, value) for field, value in (("iteration", 0), ("from_iteration", -1), ("evaluate_every", 0))),
    ("retrain", "data_order", "shuffled"),
    *(("prune", "sparsity", value) for value in (0, 1, -0.5, 1.5)),
    ("prune", "structure", "rows"),
    ("prune", "scope", "none"),
    ("prune", "channel_norm", "drop"),
    *(("retrain", field, -1) for field in ("k", "weights_k", "lr_k", "weights_iteration", "clock_start")),
    *(("retrain", field, 0) for field in ("iterations", "schedule_iterations", "constant_lr", "evaluate_every")),
    ("retrain", "lr_clock", "stopped"),
    ("retrain", "optimizer_state", "kept"),
]


@pytest.mark.parametrize(("kind", "field", "value"), OUT_OF_RANGE)
def test_value_out_of_range_is_refused_with_field_and_value(kind: str, field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make_spec(type(SPECS[kind]), **fields_of(SPECS[kind]) | {field: value})
    assert caught.value.message.startswith(f"{field} = {value!r}: ")
    assert "\n" not in caught.value.message


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_group_ignores_the_seed_and_only_the_seed(kind: str, field: str) -> None:
    spec = SPECS[kind]
    changed = copy(spec, **{field: another(getattr(spec, field))})
    same = changed.group("parents") == spec.group("parents")
    ignored = {"seed", "parent_fingerprint"} | RECORDING[kind]
    assert same == (field in ignored), "the parent's group stands for its fingerprint"


def test_group_follows_the_group_of_the_parent() -> None:
    for spec in (PRUNE, RETRAIN):
        assert spec.group("one") != spec.group("other")
    trials = [copy(PRUNE, parent_fingerprint=copy(DENSE, seed=seed).fingerprint()) for seed in (0, 1)]
    assert trials[0].fingerprint() != trials[1].fingerprint()
    groups = {trial.group(copy(DENSE, seed=seed).group(None)) for seed, trial in enumerate(trials)}
    assert len(groups) == 1


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"kind": "party"}', "not json", PRUNE.canonical()[:-1], PRUNE.canonical() + "}"]
)
def test_text_that_is_no_spec_is_refused_naming_where_it_stood(text: str) -> None:
    with pytest.raises(IntegrityError, match="the spec of run 7 is not a spec of schema 1"):
        parse_spec(text, "the spec of run 7")
