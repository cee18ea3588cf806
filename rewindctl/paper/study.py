"""A study as data: an exact set of cells (network, data, pruning, method, sparsity), from a YAML file.

The paper's tables and figures are the files in `studies/`; a user's own have the same schema. Every iteration
count is that of a full-length run.
"""

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rewindctl.catalog import Catalog, unknown
from rewindctl.counting import count_of
from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.models import models
from rewindctl.options import DataOrder, LrClock, OptimizerState
from rewindctl.paper.lines import Document, parse_yaml
from rewindctl.pruning import criteria
from rewindctl.rewinding.methods import methods
from rewindctl.specs import ChannelNorm, Iteration, Patterns, Positive, Scope, Structure
from rewindctl.system.files import read_text
from rewindctl.training.recipes import recipes

LARGEST_FILE = 100_000  # bytes: PyYAML takes seconds for more; the paper's studies have 700
NEEDED = {"model_type": "a mapping is needed", "tuple_type": "a list is needed"}
Sparsity = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`k: no` is not iteration 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("yes and no have no meaning here")
        return value


class MethodEntry(_Part):
    """A way to retrain, as `rewindctl retrain` takes it: which of its options a file may have is a part of its form."""

    method: str
    k: Iteration | None = None
    weights_k: Iteration | None = None
    lr_k: Iteration | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    iterations: Positive | None = None
    lr_clock: LrClock = "rewound"
    optimizer_state: OptimizerState = "zero"
    data_order: DataOrder = "replayed"

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        return _known_in(methods, name)


class Panel(_Part):
    """Cells of one network, data set, pruning and schedule: every method at every sparsity.

    `dense` has the baseline alone. `iterative` reaches each sparsity from the network retrained at the one before.
    `pruned_at` is where the learning rate's clock stands when a network is pruned, at every level (None: at the end of
    its training). `exclude` are patterns of the layers that lose nothing. `iterations`, `recipe`: of the baseline,
    where they are not the usual ones.
    """

    model: str
    dataset: str
    recipe: str | None = None
    iterations: Positive | None = None
    structure: Structure = "unstructured"
    scope: Scope = "global"
    criterion: str = "magnitude"
    channel_norm: ChannelNorm = "keep"
    exclude: Patterns = ()
    pruned_at: Positive | None = None
    schedule: Literal["dense", "one_shot", "iterative"] = "dense"
    sparsities: tuple[Sparsity, ...] = ()
    methods: tuple[MethodEntry, ...] = ()

    @field_validator("model", "criterion", "recipe")
    @classmethod
    def _known(cls, name: str | None, info: Any) -> str | None:
        if name is None:
            return None
        catalogs: dict[str, Catalog[Any]] = {"model": models, "criterion": criteria, "recipe": recipes}
        return _known_in(catalogs[info.field_name], name)

    @field_validator("sparsities")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError("sparsities must grow, each once")
        return values

    @model_validator(mode="after")
    def _whole(self) -> "Panel":
        pruned = self.schedule != "dense"
        for field in ("sparsities", "methods"):
            if bool(getattr(self, field)) != pruned:
                raise ValueError(f"a {self.schedule} panel {'needs' if pruned else 'has no'} {field}")
        if self.channel_norm == "remove" and self.structure != "structured":
            raise ValueError("channel_norm: remove needs structure: structured")
        return self


class Study(_Part):
    """Panels under a name, with the trials planned, the tables and figures that show them, and what is compared.

    A comparison has two sides: labels of full-length cells, conditions, or first `best of METHOD`; each scenario that
    has both gets a verdict (table `verdicts`).
    """

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    title: Annotated[str, Field(max_length=300)]
    source: Annotated[str, Field(max_length=300)] = "user study"
    trials: Annotated[int, Field(gt=0, le=1_000)] = 3
    part_of_paper: Annotated[bool, Field(validation_alias=AliasChoices("part_of_paper", "part_of_report"))] = False
    tables: tuple[Name, ...] = ("cells",)
    figures: tuple[Name, ...] = ("curves",)
    comparisons: Annotated[tuple[tuple[Text, Text], ...], Field(max_length=100)] = ()
    panels: Annotated[tuple[Panel, ...], Field(max_length=1_000)]

    @property
    def cell_count(self) -> int:
        return sum(max(1, len(panel.sparsities) * len(panel.methods)) for panel in self.panels)

    @field_validator("title", "source")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("one line of printable text is needed")
        return text


@cache
def shipped() -> dict[str, Study]:
    """The paper's studies by name, then those of its open questions; `part_of_paper` tells them apart."""
    found = [parse_study(text, name) for name, text in sorted(_texts().items())]
    return {study.name: study for study in sorted(found, key=lambda study: (not study.part_of_paper, study.name))}


def study_text(name: str) -> str:
    """A shipped study as YAML. Raises: UsageError."""
    texts = _texts()
    if name not in texts:
        raise unknown_study(name)
    return texts[name]


def load_study(reference: str) -> Study:
    """A shipped study by name, or the YAML file at a path. Raises: UsageError naming file and line."""
    if reference in shipped():
        return shipped()[reference]
    path = Path(reference)
    if path.suffix not in (".yaml", ".yml") and not os.path.isfile(path):
        raise unknown_study(reference)
    return parse_study(read_text(path, f"study {path}", LARGEST_FILE, "give a name or a YAML file"), str(path))


def parse_study(text: str, where: str) -> Study:
    """The study in YAML `text`. Raises: UsageError naming `where`, the line and the field."""
    document = parse_yaml(text, where)
    try:
        return Study.model_validate(document.value)
    except ValidationError as error:
        raise _wrong(document, error, where) from None


def studies_text(studies: list[Study]) -> str:
    """A line per study: name, cells, title."""
    width = max(len(study.name) for study in studies)
    counts = [count_of(study.cell_count, "cell") for study in studies]
    widest = max(map(len, counts))
    return "\n".join(
        f"{study.name:<{width}}  {count:<{widest}}  {study.title}" for study, count in zip(studies, counts, strict=True)
    )


def studies_json(studies: list[Study]) -> list[dict[str, Any]]:
    return [
        {
            "name": study.name,
            "title": study.title,
            "source": study.source,
            "part_of_report": study.part_of_paper,
            "trials": study.trials,
            "cells": study.cell_count,
        }
        for study in studies
    ]


def unknown_study(name: str) -> UnknownNameError:
    """The error for a name that is neither a study's nor a file's."""
    others = "or a YAML file (rewindctl reproduce --show fig1 prints one)"
    return unknown("unknown study", name, ("all", *shipped()), others=others)


def _wrong(document: Document, error: ValidationError, where: str) -> UsageError:
    problem = error.errors()[0]
    field = ".".join(str(part)[:80] for part in problem["loc"]) or "document"
    value = "" if problem["type"] == "missing" or not problem["loc"] else f" = {problem['input']!r:.80}"
    reason = NEEDED.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    return UsageError(
        f"{where}, line {document.line(problem['loc'])}: {field}{value}: {reason[0].lower()}{reason[1:]}",
        "see a valid study: rewindctl reproduce --show fig1",
    )


def _known_in(catalog: Catalog[Any], name: str) -> str:
    if name not in catalog:
        raise ValueError(f"unknown {catalog.kind}; known: {', '.join(catalog.names())}")
    return name


@cache
def _texts() -> dict[str, str]:
    folder = files("rewindctl.paper") / "studies"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }
