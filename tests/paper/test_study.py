"""The paper's studies are its figures and tables; a user's file is valid or refused with its line."""

import contextlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from studies import panel, study_of, text_of

from rewindctl.errors import UsageError
from rewindctl.paper.reference import paper_points
from rewindctl.paper.study import (
    LARGEST_FILE,
    MethodEntry,
    Panel,
    Study,
    load_study,
    parse_study,
    shipped,
    studies_json,
    studies_text,
    study_text,
)

# paper.md section 6
COLUMNS = ["model", "dataset", "structure", "schedule", "step_fraction", "method", "sparsity"]
CELLS = {"table1": 5, "table2": 1, "table3": 0, "table4": 4, "table5": 4}
CELLS |= {"fig1": 60, "fig2": 72, "fig3": 30, "fig4": 30, "fig5": 38, "fig6": 18}


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_study(text, "mine.yaml")
    assert caught.value.message.startswith("mine.yaml")
    assert "--show fig1" in caught.value.hint
    return caught.value.message


def cells_of(study: Study) -> list[tuple[Any, ...]]:
    """What tells the points of a figure apart; the schedule's step is the first level of its grid."""
    return [
        (p.model, p.dataset, p.structure, p.schedule, step_of(p), method.method, sparsity)
        for p in study.panels
        for method in p.methods
        for sparsity in p.sparsities
    ]


def step_of(one: Panel) -> float | None:
    return one.sparsities[0] if one.schedule == "iterative" else None


# The paper's


def test_the_paper_is_all_of_its_tables_and_figures() -> None:
    assert {study.name for study in shipped().values() if study.part_of_paper} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_every_study_of_the_paper_has_its_cells(name: str) -> None:
    assert shipped()[name].cell_count == CELLS[name]


@pytest.mark.parametrize("figure", range(1, 7))
def test_every_published_point_is_one_cell_and_every_cell_one_point(figure: int) -> None:
    points = paper_points()
    points = points[(points["figure"] == figure) & (points["compression"] > 1)]
    published = [
        (*row, step if row[3] == "iterative" else None, method, sparsity)
        for *row, step, method, sparsity in points[COLUMNS].itertuples(index=False)
    ]
    cells = cells_of(shipped()[f"fig{figure}"])
    assert len(set(cells)) == len(cells)
    assert sorted(map(str, cells)) == sorted(map(str, published))


def test_table5_is_the_baseline_and_three_methods_at_one_sparsity() -> None:
    baseline, pruned = shipped()["table5"].panels
    assert (baseline.schedule, baseline.model, baseline.dataset) == ("dense", "resnet110", "cifar10")
    assert (pruned.model, pruned.dataset, pruned.schedule, pruned.sparsities) == (*_of(baseline), "one_shot", (0.893,))
    assert {method.method for method in pruned.methods} == {"lr_rewind", "weight_rewind", "finetune"}


def _of(one: Panel) -> tuple[str, str]:
    return one.model, one.dataset


def test_weight_rewinding_of_the_paper_goes_back_to_8000_with_the_clock_of_the_text() -> None:
    for study in shipped().values():
        rewound = [m for p in study.panels for m in p.methods if m.method == "weight_rewind"]
        if study.part_of_paper:
            assert {m.k for m in rewound} <= {8000}
            assert {m.lr_clock for m in rewound} <= {"rewound"}


@pytest.mark.parametrize("name", [*CELLS, "lr_clock", "wrn_checkpoint", "in_between", "retrain_length"])
def test_a_printed_study_parses_to_itself(name: str, tmp_path: Path) -> None:
    path = tmp_path / "printed.yaml"
    path.write_text(study_text(name) + "\n")
    assert load_study(str(path)) == shipped()[name]
    assert shipped()[name].name == name


def test_a_file_has_the_name_of_its_study() -> None:
    names = {entry.name for entry in (files("rewindctl.paper") / "studies").iterdir()}
    assert names == {f"{name}.yaml" for name in shipped()}


def test_listing_has_a_line_and_an_object_for_every_study() -> None:
    studies = list(shipped().values())
    assert [line.split()[0] for line in studies_text(studies).splitlines()] == list(shipped())
    assert {row["name"]: row["cells"] for row in studies_json(studies)}.items() >= CELLS.items()


# A user's own

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "line 1: schema = 2"),
    ({"schema": "1"}, "line 1: schema = '1'"),
    ({"schema": True}, "line 1: schema = True"),
    ({"name": "a b"}, "line 2: name = 'a b'"),
    ({"name": "../x"}, "line 2: name = '../x'"),
    ({"name": ""}, "line 2: name = ''"),
    ({"name": 3}, "line 2: name = 3"),
    ({"name": "a" * 65}, "line 2: name = 'aaa"),
    ({"title": None}, "line 3: title = None"),
    ({"title": "t" * 301}, "line 3: title = 'ttt"),
    ({"title": ["a"]}, "line 3: title = ['a']"),
    ({"panels": {}}, "line 4: panels = {}"),
    ({"panels": "resnet8"}, "line 4: panels = 'resnet8'"),
    ({"panels": [3]}, "line 5: panels.0 = 3: a mapping is needed"),
    ({"panels": None}, "line 4: panels = None"),
]
WRONG_LATER: list[tuple[dict[str, Any], str]] = [
    ({"trials": 0}, "trials = 0"),
    ({"trials": 1001}, "trials = 1001"),
    ({"trials": 2.5}, "trials = 2.5"),
    ({"trials": True}, "trials = True: yes and no have no meaning here"),
    ({"trials": "many"}, "trials = 'many'"),
    ({"part_of_paper": "perhaps"}, "part_of_paper = 'perhaps'"),
    ({"part_of_report": "perhaps"}, "part_of_report = 'perhaps'"),
    ({"tables": "cells"}, "tables = 'cells'"),
    ({"tables": ["a/b"]}, "tables.0 = 'a/b'"),
    ({"figures": [1]}, "figures.0 = 1"),
    ({"panel": []}, "panel = []: extra inputs are not permitted"),
    ({"schema_version": 1}, "schema_version = 1"),
]
WRONG_PANEL: list[tuple[dict[str, Any], str]] = [
    ({"model": "alexnet"}, "model = 'alexnet': unknown model; known: resnet"),
    ({"model": 20}, "model = 20"),
    ({"model": None}, "model = None"),
    ({"dataset": 10}, "dataset = 10"),
    ({"criterion": "taylor"}, "criterion = 'taylor': unknown criterion; known: gradient_magnitude"),
    ({"recipe": "resnt"}, "recipe = 'resnt': unknown recipe; known: digits"),
    ({"iterations": 0}, "iterations = 0"),
    ({"iterations": 1.5}, "iterations = 1.5"),
    ({"iterations": float("inf")}, "iterations = inf"),
    ({"iterations": True}, "iterations = True"),
    ({"structure": "blocks"}, "structure = 'blocks'"),
    ({"scope": "network"}, "scope = 'network'"),
    ({"channel_norm": "zero"}, "channel_norm = 'zero'"),
    ({"exclude": "stem"}, "exclude = 'stem': a list is needed"),
    ({"exclude": ["stem", "a b"]}, "exclude.1 = 'a b'"),
    ({"schedule": "oneshot"}, "schedule = 'oneshot'"),
    ({"pruned_at": 0}, "pruned_at = 0"),
    ({"sparsities": 0.5}, "sparsities = 0.5"),
    ({"sparsities": [0.5, 1.0]}, "sparsities.1 = 1.0"),
    ({"sparsities": [0]}, "sparsities.0 = 0"),
    ({"sparsities": [float("nan")]}, "sparsities.0 = nan"),
    ({"sparsities": ["half"]}, "sparsities.0 = 'half'"),
    ({"sparsities": [0.5, 0.2]}, "sparsities = [0.5, 0.2]: sparsities must grow, each once"),
    ({"sparsities": [0.5, 0.5]}, "sparsities = [0.5, 0.5]: sparsities must grow, each once"),
    ({"methods": [3]}, "methods.0 = 3: a mapping is needed"),
    ({"methods": [{}]}, "methods.0.method: field required"),
    ({"methods": [{"method": "ft"}]}, "methods.0.method = 'ft': unknown method; known: finetune"),
    ({"methods": [{"method": "finetune", "lr": float("inf")}]}, "methods.0.lr = inf"),
    ({"methods": [{"method": "finetune", "lr": 0}]}, "methods.0.lr = 0"),
    ({"methods": [{"method": "finetune", "lr": float("nan")}]}, "methods.0.lr = nan"),
    ({"methods": [{"method": "weight_rewind", "k": -1}]}, "methods.0.k = -1"),
    ({"methods": [{"method": "weight_rewind", "k": False}]}, "methods.0.k = False: yes and no have no meaning here"),
    ({"methods": [{"method": "weight_rewind", "K": 6}]}, "methods.0.K = 6: extra inputs are not permitted"),
    ({"methods": [{"method": "weight_rewind", "k": 6, "lr_clock": "at 0"}]}, "methods.0.lr_clock = 'at 0'"),
    ({"lr": 0.1}, "lr = 0.1: extra inputs are not permitted"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG)
def test_a_wrong_field_is_refused_with_its_line(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(text_of(**fields))


@pytest.mark.parametrize(("fields", "words"), WRONG_LATER)
def test_a_wrong_field_after_the_panels_is_refused_with_its_line(fields: dict[str, Any], words: str) -> None:
    text = text_of(**fields)
    (line,) = (number for number, row in enumerate(text.splitlines(), 1) if row.startswith(f"{next(iter(fields))}:"))
    assert f"line {line + ('.0' in words)}: {words}" in refusal(text)


@pytest.mark.parametrize(("fields", "words"), WRONG_PANEL)
def test_a_wrong_field_of_a_panel_is_refused_with_its_line(fields: dict[str, Any], words: str) -> None:
    text = yaml.safe_dump(
        {"schema": 1, "name": "x", "title": "t", "panels": [panel(), panel(**fields)]}, sort_keys=False
    )
    rows = text.splitlines()
    start = max(number for number, row in enumerate(rows) if "- model:" in row)
    path = [part for part in words.split(" ", maxsplit=1)[0].rstrip(":").split(".") if not part.isdigit()]
    if words.endswith("field required"):
        path = path[:-1]
    line = start
    for part in path:
        line = next(n for n in range(line, len(rows)) if rows[n].strip().lstrip("- ").startswith(f"{part}:"))
    message = refusal(text)
    assert f"panels.1.{words}" in message
    # an item of a list has the line below the key of the list, or further down
    assert line + 1 <= int(message.split("line ")[1].split(":")[0]) <= line + 3


def test_a_dense_panel_has_no_sparsities_and_a_pruned_one_needs_them() -> None:
    assert "a dense panel has no sparsities" in refusal(text_of(panel(schedule="dense", sparsities=[0.5])))
    assert "a dense panel has no methods" in refusal(text_of(panel(schedule="dense", methods=[{"method": "finetune"}])))
    assert "a one_shot panel needs sparsities" in refusal(text_of(panel(sparsities=[])))
    assert "a iterative panel needs methods" in refusal(text_of(panel(schedule="iterative", methods=[])))


def test_channel_norms_are_removed_with_channels_only() -> None:
    assert "needs structure: structured" in refusal(text_of(panel(channel_norm="remove")))
    assert study_of(panel(channel_norm="remove", structure="structured"))


@pytest.mark.parametrize("text", ["", "~", "[]", "a", "3", "schema: 1"])
def test_what_is_no_study_is_refused(text: str) -> None:
    assert "mine.yaml, line 1: " in refusal(text)


def test_a_long_key_is_not_printed_in_full() -> None:
    assert len(refusal(text_of() + "? " + "k" * 10_000 + "\n: 1\n")) < 400


def test_a_study_cannot_be_changed() -> None:
    study = study_of()
    for part, name in ((study, "trials"), (study.panels[0], "model"), (study.panels[0].methods[0], "k")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 3)
    assert isinstance(study.panels, tuple)
    assert hash(study) == hash(study_of())


def test_what_is_not_said_is_what_retrain_and_prune_take_when_nothing_is_said() -> None:
    only = study_of(panel(methods=[{"method": "lr_rewind"}])).panels[0]
    assert (only.structure, only.scope, only.criterion, only.channel_norm) == (
        "unstructured",
        "global",
        "magnitude",
        "keep",
    )
    assert only.methods[0] == MethodEntry(method="lr_rewind", lr_clock="rewound", optimizer_state="zero")


FIELDS = {
    field.alias or name
    for part in (Study, Panel, MethodEntry)
    for name, field in part.model_fields.items()
    if issubclass(part, BaseModel)
}
KEYS = st.sampled_from(sorted(FIELDS))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
LEAVES |= st.sampled_from(["resnet8", "digits", "one_shot", "iterative", "finetune", "weight_rewind", 1, 6, 0.5])
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=20
)


@given(st.dictionaries(KEYS, TREES, max_size=8))
@settings(max_examples=100, deadline=None)
def test_whatever_the_fields_hold_they_are_valid_or_refused(fields: dict[str, Any]) -> None:
    base = {"schema": 1, "name": "x", "title": "t", "panels": [panel()]}
    for value in (fields, base | fields, base | {"panels": [fields]}, base | {"panels": [panel(methods=[fields])]}):
        with contextlib.suppress(UsageError):
            parse_study(yaml.safe_dump(value), "mine.yaml")


# Files


def write(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def test_a_file_needs_no_suffix_and_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = text_of().encode()
    for name, content in (("a.yaml", text), ("b.yml", text), ("c", text), ("d.yaml", b"\xef\xbb\xbf" + text)):
        assert load_study(write(tmp_path, name, content)) == study_of()


FILES = {
    "huge": (text_of().encode() + b"#" * LARGEST_FILE, "is too large"),
    "latin": (text_of(title="caf").encode().replace(b"caf", b"caf\xe9"), "is not UTF-8 text"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not UTF-8 text"),
    "zeros": (bytes(1000), "not YAML"),
    "empty": (b"", "line 1: document"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_study_is_refused(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    path = write(tmp_path, f"{name}.yaml", content)
    with pytest.raises(UsageError) as caught:
        load_study(path)
    assert path in caught.value.message
    assert words in caught.value.message


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is too large"):
        load_study(str(tmp_path / "zero.yaml"))


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for path, words in (("none.yaml", "No such file"), ("folder.yaml", "directory")):
        with pytest.raises(UsageError, match=f"cannot be read: .*{words}"):
            load_study(str(tmp_path / path))


@pytest.mark.parametrize("name", ["fig7", "figure1", "", "a" * 5_000, "folder"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="unknown study") as caught:
        load_study(name)
    assert "known: all, fig1, fig2" in caught.value.hint
    assert ("did you mean 'fig" in caught.value.message) == name.startswith("fig")


def test_a_shipped_name_is_never_a_file(tmp_path: Path) -> None:
    write(tmp_path, "fig1", text_of().encode())
    assert load_study("fig1") == shipped()["fig1"]
