"""YAML from others: values with their lines, and for whatever is wrong one UsageError that says where."""

import contextlib
import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewindctl.errors import UsageError
from rewindctl.paper.lines import DEEPEST, MOST_VALUES, parse_yaml

WORDS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
# Without control characters and odd line ends, which PyYAML itself does not read as it writes them.
TEXTS = st.text(st.sampled_from(" ") | st.characters(categories=["L", "N", "P", "S"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=12
)


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "f.yaml")
    assert caught.value.message.startswith("f.yaml")
    assert len(caught.value.message) < 400
    return caught.value.message


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a value, itself first."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in parts for deeper in paths(child, (*path, key)))]


# What is read


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_what_yaml_writes_is_read_as_it_was_and_every_part_has_a_line(value: Any) -> None:
    document = parse_yaml(yaml.safe_dump(value, allow_unicode=True), "f.yaml")
    assert document.value == value
    assert set(document.lines) == set(paths(value))


def test_lines_are_those_of_keys_and_items() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  -\n    c: [1,\n       2]\n", "f.yaml")
    lines = {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1, "c"): 5, ("b", 1, "c", 0): 5, ("b", 1, "c", 1): 6}
    assert {path: document.lines[path] for path in lines} == lines


def test_a_part_that_is_not_there_has_the_line_of_what_is_around_it() -> None:
    document = parse_yaml("\n\na:\n  - b: 1\n", "f.yaml")
    assert document.line(("a", 0, "missing")) == document.line(("a", 0)) == 4
    assert document.line(("missing",)) == document.line(()) == 3
    assert parse_yaml("", "f.yaml").line(("missing",)) == 1


def test_a_date_stays_the_text_that_it_is() -> None:
    assert parse_yaml("2024-01-01", "f.yaml").value == "2024-01-01"
    assert parse_yaml("2024-99-99", "f.yaml").value == "2024-99-99"


def test_numbers_that_are_none_are_left_to_who_knows_the_field() -> None:
    assert parse_yaml(".inf", "f.yaml").value == math.inf
    assert math.isnan(parse_yaml(".nan", "f.yaml").value)


def test_an_alias_is_a_copy_of_its_anchor() -> None:
    assert parse_yaml("a: &x [1, {b: 2}]\nc: *x\n", "f.yaml").value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


# What is refused


def bomb(levels: int) -> str:
    """Ten references to ten references to ...: 10 ** levels values from a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "explosion": (bomb(9), "too many values"),
    "wide explosion": ("a: &a " + str([0] * 400) + "\nb: &b [" + "*a, " * 400 + "]\nc: *b", "too many values"),
    "itself": ("&a [*a]", "too many values or levels"),
    "itself in a mapping": ("&a {b: *a}", "too many values or levels"),
    "deep sequence": ("[" * 100_000, "too many values or levels"),
    "deep mapping": ("\n".join(" " * n + "a:" for n in range(900)), "too many values or levels"),
    "deeper than any study": ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "too many values or levels"),
    "object": ("!!python/object/apply:os.system ['touch constructed']", "line 1: the tag"),
    "name": ("a: 1\nb: !!python/name:os.system ''", "line 2: the tag"),
    "module": ("!!python/module:antigravity ''", "line 1: the tag"),
    "object of a mapping": ("!!python/object:collections.OrderedDict {}", "line 1: the tag"),
    "own tag": ("a: !mine 1", "line 1: the tag '!mine'"),
    "sequence that is none": ("a: !!seq b", "the tag"),
    "mapping that is none": ("a: !!map b", "the tag"),
    "set": ("!!set {a, b}", "the tag"),
    "pairs": ("!!omap [a: 1]", "the tag"),
    "binary": ("!!binary aGVsbG8=", "the tag"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3: 'a' appears twice"),
    "twice below": ("a:\n  b: 1\n  b: 1", "line 3: 'b' appears twice"),
    "merge": ("<<: {a: 1}", "line 1: a key must be a word"),
    "key that is a number": ("x: 1\n2: y", "line 2: a key must be a word"),
    "key that is nothing": ("~: 1", "a key must be a word"),
    "key that is a list": ("? [a]\n: 1", "a key must be a word"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: not YAML"),
    "unknown alias": ("a: *b", "line 1: not YAML: found undefined alias"),
    "long unknown alias": (f"a: *{'b' * 100_000}", "line 1: not YAML"),
    "tab": ("a:\n\tb: 1", "line 2: not YAML"),
    "open": ("a: 'b", "not YAML"),
    "zero byte": ("a\0b", "not YAML"),
    "escape without a character": (r'a: "\UFFFFFFFF"', "not YAML"),
    "half a character": (r'a: "\uD800"', "not a valid value"),
    "digits without end": ("a: " + "9" * 10_000, "not a valid value"),
    "hexadecimal digits without end": ("a: 0x" + "f" * 10_000, "not a valid value"),
    "whole number that no computer counts to": (f"a: {2**63}", "not a valid value"),
    "no whole number": ("a: !!int ''", "line 1: '' is not a valid value"),
    "no number": ("a: 1\nb: !!float ''", "line 2: '' is not a valid value"),
    "no truth": ("a: !!bool maybe", "'maybe' is not a valid value"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_with_its_line_and_nothing_is_constructed(name: str, tmp_path: Any) -> None:
    text, words = HOSTILE[name]
    assert words in refusal(text)
    assert list(tmp_path.iterdir()) == []


def test_as_many_values_as_allowed_are_read() -> None:
    text = "a: &a [" + "x, " * 298 + "]\nb: [" + "*a, " * 300 + "]"  # 2 + 298 + 1 + 300 * 299 values
    assert len(parse_yaml(text, "f.yaml").lines) == 90_001 < MOST_VALUES


ALPHABET = st.sampled_from("ab01 \n\t-:?,[]{}#&*!|>'\"%@`~.<=xé\\U\x00\ud800\ufeff")
PIECES = [
    "!!int",
    "!!bool",
    "!!timestamp ",
    "!!seq ",
    "&a ",
    "*a",
    "? ",
    "- ",
    ": ",
    "<<: ",
    "0x",
    "1:2",
    "\n  ",
    "---",
]


@given(st.text(max_size=60) | st.text(ALPHABET, max_size=60) | st.lists(st.sampled_from(PIECES)).map("".join))
@example("!!int ''")
@example("!!timestamp x")
@settings(max_examples=500, deadline=None)
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_yaml(text, "f.yaml")
