"""What a search may vary: space files, their errors by line, K among the recorded points."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rewindctl.errors import UsageError
from rewindctl.specs import DenseSpec
from rewindctl.tuning.space import (
    Dimension,
    distributions,
    longest,
    on_points,
    parse_space,
    read_space,
    searched,
    space_of,
    space_text,
    usual_space,
)

FULL = """
lr: {type: float, low: 1e-5, high: 0.1, log: true}
iterations: {type: int, low: 10, high: 50, step: 10}
momentum:
  type: categorical
  choices: [0, 0.5, 0.9]
"""


def dense(*points: int) -> DenseSpec:
    return DenseSpec(
        model="resnet8",
        dataset="digits",
        data_digest="0",
        recipe="digits",
        seed=3,
        iterations=points[-1],
        batch_size=32,
        learning_rate=0.1,
        lr_boundaries=(),
        lr_factor=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        weight_decay_scope="all",
        norm_momentum=0.1,
        norm_epsilon=1e-5,
        crop_padding=0,
        padding_mode="reflect",
        horizontal_flip=False,
        evaluate_every=10,
        rewind_points=points,
    )


def test_a_file_becomes_distributions(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(FULL)
    assert distributions(read_space(path, "finetune")) == {
        "lr": FloatDistribution(1e-5, 0.1, log=True),
        "iterations": IntDistribution(10, 50, step=10),
        "momentum": CategoricalDistribution([0.0, 0.5, 0.9]),
    }


WRONG = [
    ("rate: {type: float, low: 1, high: 2}", 1, "finetune has no setting 'rate'", "lr, iterations, momentum"),
    (
        "lr: {type: float, low: 0.001, high: 0.1}\nk: {type: int, low: 0, high: 9}",
        2,
        "finetune has no setting 'k'",
        "known: lr",
    ),
    ("lr: 0.1", 1, "lr", "type: float"),
    ("lr: {type: real, low: 0.001, high: 0.1}", 1, "type = 'real'", "type: float"),
    ("lr:\n  type: float\n  low: many\n  high: 0.1", 3, "low = 'many'", "type: float"),
    ("lr:\n  type: float\n  low: .nan\n  high: 0.1", 3, "low", "type: float"),
    ("lr: {type: float, low: 0.1, high: 0.001}", 1, "low the smaller", ""),
    ("lr: {type: float, low: 0.1}", 1, "needs low and high", ""),
    ("lr: {type: float, low: 0.1, high: 1, scale: log}", 1, "scale", ""),
    ("lr: {type: float, low: 0, high: 0.1, log: true}", 1, "log needs a low above 0", ""),
    ("lr: {type: float, low: 0, high: 0.1}", 1, "lr 0 is out of range", ""),
    ("lr: {type: float, low: 0.1, high: 1, log: true, step: 0.1}", 1, "no step", ""),
    ("lr: {type: float, low: 0.1, high: 0.2, step: 5}", 1, "step must", ""),
    ("lr: {type: float, low: 0.1, high: 0.2, choices: [0.1]}", 1, "no choices", ""),
    ("lr: {type: categorical, choices: []}", 1, "choices, each once", ""),
    ("lr: {type: categorical, choices: [0.1, 0.1]}", 1, "choices, each once", ""),
    ("lr: {type: categorical, choices: [0.1], low: 0.1}", 1, "no low", ""),
    ("momentum: {type: float, low: 0.5, high: 1}", 1, "momentum 1 is out of range", ""),
    ("iterations: {type: int, low: 0, high: 9}", 1, "iterations 0 is out of range", ""),
    ("iterations: {type: int, low: 1.5, high: 9}", 1, "whole numbers", ""),
    ("iterations: {type: categorical, choices: [1.5, 9]}", 1, "whole number", ""),
    ("[1, 2]", None, "a space is a list of settings by name", "lr"),
    ("", None, "a space is a list of settings by name", "lr"),
    ("lr: {type: float", 1, "not YAML", "correct the file"),
    ("lr: {type: float, low: 0.1, high: 1}\nlr: {type: float, low: 0.1, high: 1}", 2, "appears twice", "keep one"),
]


@pytest.mark.parametrize(("text", "line", "words", "hint"), WRONG)
def test_a_wrong_file_is_refused_by_its_line(text: str, line: int | None, words: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_space(text, "space.yaml", "finetune")
    where = "space.yaml" if line is None else f"space.yaml, line {line}"
    assert caught.value.message.startswith(f"{where}:"), caught.value.message
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("missing", "cannot be read"), ("binary", "not UTF-8"), (".", "cannot be read")):
        with pytest.raises(UsageError, match=words):
            read_space(tmp_path / name, "finetune")


def test_k_is_one_of_the_recorded_points_but_the_last() -> None:
    recorded = dense(0, 6, 12, 24)
    assert usual_space("weight_rewind", recorded)["k"].values == (0, 6, 12)
    between = on_points({"k": Dimension(type="int", low=1, high=24)}, recorded, "here")
    assert distributions(between) == {"k": CategoricalDistribution([6, 12])}
    chosen = {"k": Dimension(type="categorical", choices=(0, 12))}
    assert on_points(chosen, recorded, "here") == chosen
    for wrong in ((0, 7), (24,)):
        with pytest.raises(UsageError, match="not a recorded rewind point") as caught:
            on_points({"k": Dimension(type="categorical", choices=wrong)}, recorded, "here")
        assert caught.value.hint == "recorded: 0, 6, 12"
    with pytest.raises(UsageError, match="no rewind point from 7 to 11"):
        on_points({"k": Dimension(type="int", low=7, high=11)}, recorded, "here")


def test_weights_come_from_a_recorded_point_and_the_clock_starts_before_the_end() -> None:
    recorded = dense(0, 6, 12, 24)
    usual = distributions(usual_space("rewind", recorded))
    assert usual == {"weights_k": CategoricalDistribution([0, 6, 12, 24]), "lr_k": IntDistribution(0, 23)}
    stepped = usual_space("rewind", recorded.model_copy(update={"lr_boundaries": (12, 18)}))
    assert distributions(stepped)["lr_k"] == IntDistribution(0, 18), "later clocks train at the last rate alone"
    between = on_points({"weights_k": Dimension(type="int", low=7, high=24)}, recorded, "here")
    assert distributions(between) == {"weights_k": CategoricalDistribution([12, 24])}
    anywhere = {"lr_k": Dimension(type="int", low=1, high=23)}
    assert on_points(anywhere, recorded, "here") == anywhere
    for wrong in (Dimension(type="int", low=0, high=24), Dimension(type="categorical", choices=(24, 0))):
        with pytest.raises(UsageError, match="lr_k 24 leaves nothing to train"):
            on_points({"lr_k": wrong}, recorded, "here")
    with pytest.raises(UsageError, match="weights_k 7 is not a recorded") as caught:
        on_points({"weights_k": Dimension(type="categorical", choices=(6, 7))}, recorded, "here")
    assert caught.value.hint == "recorded: 0, 6, 12, 24"


def test_the_usual_rates_are_around_the_papers() -> None:
    low, high = usual_space("finetune", dense(0, 24))["lr"].values
    assert low < 0.001 < high


def test_a_method_without_a_usual_space_asks_for_a_file() -> None:
    with pytest.raises(UsageError, match="no default search space for lr_rewind"):
        usual_space("lr_rewind", dense(0, 24))


def test_the_longest_training_is_that_of_the_space_or_the_fixed_one() -> None:
    assert longest({"iterations": Dimension(type="int", low=5, high=50)}, "iterations", 24) == 50
    assert longest({}, "iterations", 24) == 24


intervals = st.builds(
    lambda low, width, log: Dimension(type="float", low=low, high=low + width, log=log),
    st.floats(1e-9, 0.4),
    st.floats(1e-3, 0.5),
    st.booleans(),
)
choices = st.lists(st.floats(0.01, 0.9), min_size=1, max_size=5, unique=True).map(
    lambda values: Dimension(type="categorical", choices=tuple(values))
)


@given(st.dictionaries(st.sampled_from(searched("finetune")[::2]), intervals | choices, min_size=1))
def test_a_space_is_what_its_text_says(space: dict[str, Dimension]) -> None:
    assert space_of(space_text(space)) == space
    assert distributions(space_of(space_text(space))) == distributions(space)
