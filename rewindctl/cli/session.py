"""What every command shares: its options, its console, its registry, its way to print a run."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.cli import choices, complete
from rewindctl.console import Console
from rewindctl.errors import RewindError, UsageError
from rewindctl.system.safe_text import finite

if TYPE_CHECKING:
    from rewindctl.datasets.inventory import DataFacts
    from rewindctl.durations import Deadline
    from rewindctl.engines.work import WorkerConfig
    from rewindctl.pipeline import Outcome, Pipeline, RunPolicy
    from rewindctl.pipeline.pipeline import Place
    from rewindctl.registry import Registry, RunRecord

STORE = "Store"
RUN = "Run"
MOST_TOLD = 3


@dataclass(frozen=True)
class Globals:
    """The options given before the command."""

    tracking_uri: str | None = None
    experiment: str | None = None
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Session:
    """The options of one call, those after the command going before those before it."""

    tracking_uri: str | None
    experiment: str | None
    json: bool
    console: Console
    force: bool = False
    device: str = "auto"
    data_dir: Path | None = None
    checkpoint_every: float = 60.0
    wait: bool = True
    precision: str = AUTO
    deterministic: bool = True
    update_step: str = AUTO
    compile: bool = False
    replay: bool = True
    resume_points: "Place" = "machine"
    _facts: "dict[str, DataFacts]" = field(default_factory=dict)
    _opened: "list[Registry]" = field(default_factory=list)

    def registry(self, *, make: bool = True, make_default: bool = True) -> "Registry":
        """The registry, opened now; a command that only reads does not `make` an experiment: see `Registry`.

        Raises: RegistryError, UnknownNameError.
        """
        from rewindctl.registry import Registry

        opened = Registry(self.tracking_uri, self.experiment, make=make, make_default=make_default)
        self._opened.append(opened)
        return opened

    def say_edits(self) -> None:
        """Which finished runs somebody edited since, of those that were read."""
        found = {run_id: edits for opened in self._opened for run_id, edits in opened.client.edited.items()}
        for run_id, edits in list(found.items())[:MOST_TOLD]:
            more = f" and {len(edits) - 1} more" if len(edits) > 1 else ""
            self.console.say(f"note: run {run_id} was edited ({edits[0]}{more}): its recorded values are used")
        if len(found) > MOST_TOLD:
            self.console.say(f"note: {len(found) - MOST_TOLD} more runs were edited: rewindctl verify --all")

    def form(self, given: str | None) -> str:
        """What --format says, or --json. Raises: UsageError when they say different things."""
        if self.json and given not in (None, "json"):
            raise UsageError(f"both --json and --format {given} are given", "give one of the two")
        return given or ("json" if self.json else "text")

    def pipeline(self) -> "Pipeline":
        """A pipeline on the device asked for; it opens the registry when it first needs it. Raises: UsageError."""
        from rewindctl.pipeline import Pipeline

        return Pipeline(self.registry, self.console, self.device, self.data_dir, self._policy)

    def site(self, registry: "Registry", deadline: "Deadline | None" = None, collected: str = "") -> "WorkerConfig":
        """What workers need to run stages as this command would, until a `deadline`; `collected` is for their runs.

        Raises: UsageError.
        """
        from rewindctl.engines.work import WorkerConfig

        policy = replace(self._policy, deadline=deadline, collected=collected)
        return WorkerConfig(registry.uri, registry.experiment, self.device, self.data_dir, policy)

    @property
    def _policy(self) -> "RunPolicy":
        from rewindctl.pipeline import RunPolicy

        return RunPolicy(
            self.force,
            self.checkpoint_every,
            self.wait,
            self.arithmetic,
            self.replay,
            resume_points=self.resume_points,
        )

    @property
    def arithmetic(self) -> Arithmetic:
        """Raises: UsageError."""
        return Arithmetic(self.precision, self.deterministic, self.update_step, self.compile)

    def facts(self, dataset: str) -> "DataFacts":
        """What is known of a data set, read at most once. Raises: UnknownNameError, DataError."""
        from rewindctl.datasets.inventory import facts_of

        if dataset not in self._facts:
            self._facts[dataset] = facts_of(dataset, self.data_dir)
        return self._facts[dataset]

    def has_data(self, dataset: str) -> bool:
        """Whether the data set is here, as far as can be told without reading it."""
        from rewindctl.datasets.inventory import inventory

        return any(row["name"] == dataset and row["place"] for row in inventory(self.data_dir))

    def show_outcome(self, outcome: "Outcome") -> None:
        """The run ID alone, or one JSON object."""
        self.show_run(outcome.run, outcome.reused)

    def show_run(self, run: "RunRecord", reused: bool) -> None:
        if self.json:
            self.console.json(run_json(run) | {"reused": reused})
        else:
            self.console.data(run.run_id)


def run_json(run: "RunRecord") -> dict[str, Any]:
    """A run as the JSON output gives it."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "fingerprint": run.fingerprint,
        "parent_run_id": run.parent_id,
        "dense_run_id": run.dense_run_id,
        "metrics": {key: finite(value) for key, value in run.metrics.items()},
        "params": run.params,
    }


KEPT_RUNS = "finished runs are kept, and an unfinished training up to its last resume point"


class StoppedError(Exception):
    """Ctrl-C or SIGTERM during a command: the text is what there is of its work."""


_SHARED: dict[str, Any] = {
    "tracking_uri": Annotated[str | None, typer.Option(help="MLflow store or server.", rich_help_panel=STORE)],
    "experiment": Annotated[
        str | None, typer.Option(help="MLflow experiment.", rich_help_panel=STORE, autocompletion=complete.experiments)
    ],
    "json": Annotated[bool, typer.Option("--json", help="Print JSON to stdout.", rich_help_panel=STORE)],
    "quiet": Annotated[bool, typer.Option("--quiet", help="No progress and no remarks.", rich_help_panel=STORE)],
}
UpdateStep = Annotated[
    str,
    typer.Option(
        help="How updates are computed: auto, pytorch or fused (our own GPU kernels; in networks other than "
        "ResNets and WRNs they compute only the batch norms with their ReLU); auto is pytorch until the kernels have "
        "been checked on a GPU.",
        rich_help_panel=RUN,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="Use torch.compile: fewer kernels, other rounding in the last bits, a minute or more before the first "
        "update.",
        rich_help_panel=RUN,
    ),
]
_RUN: dict[str, Any] = {
    "force": Annotated[
        bool, typer.Option("--force", help="Run again even if the registry has the result.", rich_help_panel=RUN)
    ],
    "device": Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUN)],
    "precision": Annotated[
        str,
        typer.Option(help="auto, fp32 or bf16; auto is bf16 where that is faster.", rich_help_panel=RUN),
    ],
    "deterministic": Annotated[
        bool,
        typer.Option(
            "--deterministic/--no-deterministic",
            help="Repeated runs on one device give the same bytes; if off, CUDA uses the fastest kernels.",
            rich_help_panel=RUN,
        ),
    ],
    "update_step": UpdateStep,
    "compile": Compile,
    "checkpoint_every": Annotated[
        float,
        typer.Option(
            min=0, help="Seconds between resume points, from which an interrupted run continues.", rich_help_panel=RUN
        ),
    ],
    "resume_points": Annotated[
        Literal["machine", "store"],
        typer.Option(
            help="Where resume points are kept: on this machine, or also in the artifact store, for similar machines.",
            rich_help_panel=RUN,
        ),
    ],
    "wait": Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait for a stage that another process is running.", rich_help_panel=RUN),
    ],
    "replay": Annotated[
        bool,
        typer.Option(
            "--replay/--no-replay",
            help="Repeat a training up to an iteration that is needed but was not recorded.",
            rich_help_panel=RUN,
        ),
    ],
    "data_dir": Annotated[
        Path | None, typer.Option(help="Folder of data sets. [$REWINDCTL_DATA, user cache]", rich_help_panel=RUN)
    ],
}
_DEFAULTS: dict[str, Any] = {"json": False, "quiet": False} | {
    one.name: one.default for one in fields(Session) if one.default is not MISSING
}


def command(
    *, runs: bool = False, panels: Mapping[str, Iterable[str]] | None = None, kept: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the function's first parameter becomes a Session, made from options that Typer sees added to its own.

    One marked `choices.Retraining` becomes its options, and is made from them.
    `runs` adds the options of `_RUN`. `panels`: the help's, and what is under each, by parameter; the others
    come first. `kept`: what is left when it is interrupted.
    """
    shared = _SHARED | (_RUN if runs else {})
    panel_of = {name: panel for panel, names in (panels or {}).items() for name in names}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        given = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        groups = {one.name: group for one in given if (group := choices.retraining_of(one)) is not None}
        several = [groups[one.name].parameters() if one.name in groups else [one] for one in given]
        own = [_under(parameter, panel_of.get(parameter.name)) for one in several for parameter in one]

        @functools.wraps(function)
        def wrapper(context: typer.Context, **values: Any) -> None:
            common = {key: values.pop(key) for key in shared}
            session = _session(context.obj or Globals(), common)
            try:
                asked = {name: group.collected(values) for name, group in groups.items()}
                function(session, **asked, **values)
            except KeyboardInterrupt:
                raise StoppedError(kept or (KEPT_RUNS if runs else "nothing was changed")) from None
            except Exception:
                raise
            except BaseException as error:  # SystemExit(0) would look like success
                told = f"{type(error).__name__}: {error}"
                raise RewindError(f"a plug-in or a library ended the command: {told}", "--debug shows where") from error
            session.say_edits()

        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=_DEFAULTS.get(name), annotation=annotation)
            for name, annotation in shared.items()
        ]
        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        signature = inspect.Signature([first, *(p.replace(kind=keyword) for p in own), *added])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
        del wrapper.__wrapped__
        return wrapper

    return decorate


def _under(parameter: inspect.Parameter, panel: str | None) -> inspect.Parameter:
    """The parameter of a command with its panel of the help; what several commands take stays as it is."""
    if panel is None:
        return parameter
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[kind, option])


def _session(before: Globals, after: dict[str, Any]) -> Session:
    """From the options before the command and all of those after it."""
    quiet = after.pop("quiet") or before.quiet
    given = {
        "tracking_uri": after["tracking_uri"] or before.tracking_uri,
        "experiment": before.experiment if after["experiment"] is None else after["experiment"],
        "json": after["json"] or before.json,
    }
    return Session(console=Console(quiet=quiet), **after | given)
