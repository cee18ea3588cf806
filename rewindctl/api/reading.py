"""Functions that read the registry: runs by name and by condition, their networks and masks, comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from rewindctl.api.run import Run
from rewindctl.catalog import unknown
from rewindctl.checks.verify import verify as problems_of
from rewindctl.conditions import parse_conditions
from rewindctl.errors import UsageError
from rewindctl.registry import Registry
from rewindctl.report.runs import ALL_KINDS, select, spec_order
from rewindctl.rewinding.methods import methods
from rewindctl.specs import Kind

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

Method = Literal["finetune", "weight_rewind", "lr_rewind", "rewind"] | str


class StoreOptions(TypedDict, total=False):
    """Where runs are stored, as `--tracking-uri` and `--experiment`; by default where the parent `Run` is."""

    tracking_uri: str | None
    experiment: str | None


@dataclass(frozen=True)
class Comparison:
    """`runs`: the tidy frame, a row per finished retraining or dense run; `accuracy`: `final` or `best`."""

    runs: "pd.DataFrame"
    accuracy: Literal["final", "best"] = "final"

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """A row per cell: median, percentiles and n over trials, and the difference from the dense baseline."""
        from rewindctl.report.cells import summarise

        return summarise(self.runs, self.accuracy)

    def pair(self, first: str, second: str) -> "pd.DataFrame":
        """`first` against `second`, labels or conditions as `compare --pair` takes them: a row per scenario.

        Effect in percentage points, interval, p, n, smallest effect and verdict. Raises: RewindError.
        """
        from rewindctl.report.paired import paired

        return paired(self.runs, first, second, accuracy=self.accuracy)


def compare(
    *,
    model: str | None = None,
    dataset: str | None = None,
    accuracy: Literal["final", "best"] = "final",
    files: Sequence[str | Path] = (),
    **options: Unpack[StoreOptions],
) -> Comparison:
    """The finished dense runs and retrainings of the experiment, or the rows of `runs.csv` files, and their cells.

    Raises: RewindError.
    """
    from rewindctl.report.compare import rows_of
    from rewindctl.report.rows import read_files

    if accuracy not in ("final", "best"):
        raise UsageError(f"unknown accuracy {accuracy!r}", "known: best, final")
    source = read_files([Path(file) for file in files]) if files else registry_of(options)
    return Comparison(rows_of(source, [(model, dataset)]), accuracy)


def open_run(run: str, **options: Unpack[StoreOptions]) -> Run:
    """A run by ID, prefix of 6 or more, or `models:/NAME@alias`. Raises: UsageError, RegistryError."""
    registry = registry_of(options)
    return Run(registry.resolve(run), registry)


def list_runs(
    *,
    kind: Kind | None = None,
    method: Method | None = None,
    where: str | None = None,
    **options: Unpack[StoreOptions],
) -> list[Run]:
    """The runs of the experiment, as `rewindctl list` lists them, in the order of their specs. Raises: RewindError."""
    if kind is not None and kind not in ALL_KINDS:
        raise unknown("unknown kind", kind, ALL_KINDS)
    if method is not None:
        methods[method]
    conditions = [] if where is None else parse_conditions(where, "where")
    tags = {key: value for key, value in (("kind", kind), ("method", method)) if value is not None}
    registry = registry_of(options)
    return [Run(record, registry) for record in sorted(select(registry, tags, conditions), key=spec_order)]


def load_model(run: Run | str, **options: Unpack[StoreOptions]) -> "nn.Module":
    """A run's network, ready to be used: see `Run.model`. Raises: RewindError."""
    return _opened(run, options).model()


def load_mask(run: Run | str, **options: Unpack[StoreOptions]) -> "dict[str, Tensor]":
    """The mask in force in a run, bool by parameter name: see `Run.mask`. Raises: RewindError."""
    return _opened(run, options).mask()


def verify(run: Run | str, **options: Unpack[StoreOptions]) -> list[str]:
    """The problems of a run's files, numbers, lineage and mask, one text each; empty for an intact run."""
    opened = _opened(run, options)
    return problems_of(opened.registry, opened.record)


def registry_of(options: StoreOptions, *, make: bool = False) -> Registry:
    """The registry of a call. Raises: RegistryError, UnknownNameError, and TypeError for an unknown option.

    `make`: create a missing experiment; functions that only read do not.
    """
    return Registry(**options, make=make)


def _opened(run: Run | str, options: StoreOptions) -> Run:
    return run if isinstance(run, Run) else open_run(run, **options)
