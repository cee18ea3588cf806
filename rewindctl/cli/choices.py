"""Options that several commands take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Annotated, Any, Literal, get_args

import typer

from rewindctl.cli import complete
from rewindctl.options import Option
from rewindctl.rewinding.methods import OPTIONS, RetrainOptions, methods

PRUNING, RETRAINING = "Pruning", "Retraining"
METHODS = methods.loaded()  # built in: the help names them
PANELS = {  # of the help, for the commands that take these options
    RETRAINING: tuple(OPTIONS),
    PRUNING: ("sparsity", "compression", "structure", "scope", "channel_norm", "criterion", "exclude"),
}
Parent = Annotated[
    str,
    typer.Option(help="Run ID, at least 6 of its first digits, or models:/NAME@alias.", autocompletion=complete.runs),
]
Parents = Annotated[
    list[str],
    typer.Option(
        help="Run ID, at least 6 of its first digits, or models:/NAME@alias. Repeatable.",
        autocompletion=complete.runs,
    ),
]
Sparsity = Annotated[float | None, typer.Option(help="Fraction of kernel weights to remove, as 0.893.")]
Compression = Annotated[float | None, typer.Option(help="Total / kept kernel weights, as 9.35.")]
Structure = Annotated[Literal["unstructured", "structured"], typer.Option(help="Single weights, or channels and rows.")]
Scope = Annotated[
    Literal["global", "layerwise"], typer.Option(help="One ranking for the whole network, or one per layer.")
]
ChannelNorm = Annotated[
    Literal["keep", "remove"], typer.Option(help="Batch norm of a removed channel: as it is (the paper), or zero.")
]
Criterion = Annotated[
    str, typer.Option(help="Criterion that ranks the weights.", autocompletion=complete.names("criterion"))
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Layers that keep every weight: stem, or a pattern as 'blocks.0.*'. Repeatable."),
]


@dataclass(frozen=True)
class Retraining:
    """Marks the parameter of a command that stands for `--method` and every retraining option, in their order.

    `method`: the usual one. `without`: options that the command does not take. `texts`: its own help of others.
    """

    method: Any = Parameter.empty
    without: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> list[Parameter]:
        """What Typer sees in the place of the marked parameter."""
        *first, last = METHODS
        names = typer.Option(help=f"{', '.join(first)} or {last}.", autocompletion=complete.methods)
        method = Parameter("method", Parameter.KEYWORD_ONLY, default=self.method, annotation=Annotated[str, names])
        return [method, *(self._parameter(one) for one in self._options)]

    def collected(self, values: dict[str, Any]) -> RetrainOptions:
        """The options among the `values` that a command was called with, which are taken out. Raises: UsageError."""
        return RetrainOptions(**{name: values.pop(name) for name in ("method", *(one.name for one in self._options))})

    @property
    def _options(self) -> list[Option]:
        return [one for one in OPTIONS.values() if one.name not in self.without]

    def _parameter(self, one: Option) -> Parameter:
        takers = ", ".join(name for name, method in METHODS.items() if one.name in method.takes)
        text = self.texts.get(one.name) or (f"{takers}: {one.text}" if takers else one.text)
        kind: Any = Annotated  # mypy accepts no type that is a value
        annotation = kind[one.kind, typer.Option(one.flag, help=text)]
        return Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=annotation)


Asked = Annotated[RetrainOptions, Retraining()]


def retraining_of(parameter: Parameter) -> Retraining | None:
    """The mark of a parameter that stands for the retraining options."""
    return next((one for one in get_args(parameter.annotation) if isinstance(one, Retraining)), None)
