"""Options that several commands take."""

from typing import Annotated, Literal

import typer

from rewindctl.cli import complete

PRUNING, RETRAINING = "Pruning", "Retraining"
PANELS = {  # of the help, for the commands that take these options
    RETRAINING: ("k", "weights_k", "lr_k", "lr", "iterations", "lr_clock", "optimizer_state", "momentum", "data_order"),
    PRUNING: ("sparsity", "compression", "structure", "scope", "channel_norm", "criterion", "exclude"),
}
Parent = Annotated[
    str,
    typer.Option(help="Run ID, at least 6 of its first digits, or models:/NAME@alias.", autocompletion=complete.runs),
]
Parents = Annotated[
    list[str],
    typer.Option(
        help="Run ID, at least 6 of its first digits, or models:/NAME@alias. Again for each further one.",
        autocompletion=complete.runs,
    ),
]
Sparsity = Annotated[float | None, typer.Option(help="Fraction of kernel weights to remove, as 0.893.")]
Compression = Annotated[float | None, typer.Option(help="Total / kept kernel weights, as 9.35.")]
Structure = Annotated[Literal["unstructured", "structured"], typer.Option(help="Single weights, or channels and rows.")]
Scope = Annotated[Literal["global", "layerwise"], typer.Option(help="One ranking for the network, or one a layer.")]
ChannelNorm = Annotated[
    Literal["keep", "remove"], typer.Option(help="Batch norm of a removed channel: as it is (the report), or zero.")
]
Criterion = Annotated[str, typer.Option(help="What ranks the weights.", autocompletion=complete.names("criterion"))]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Layers that keep every weight: stem, or a pattern as 'blocks.0.*'. Again for each further one."),
]
Method = Annotated[
    str, typer.Option(help="finetune, weight_rewind, lr_rewind or rewind.", autocompletion=complete.names("method"))
]
K = Annotated[int | None, typer.Option("--k", help="weight_rewind: iteration of the dense run to rewind to.")]
WeightsK = Annotated[int | None, typer.Option("--weights-k", help="rewind: iteration that the weights come from.")]
LrK = Annotated[int | None, typer.Option("--lr-k", help="rewind: iteration that the learning-rate clock starts at.")]
Rate = Annotated[float | None, typer.Option("--lr", help="finetune: constant learning rate. [0.001]")]
RetrainIterations = Annotated[
    int | None, typer.Option("--iterations", help="finetune, lr_rewind: length. [that of the dense run]")
]
Momentum = Annotated[float | None, typer.Option(help="Of the optimiser. [that of the dense run]")]
LrClock = Annotated[
    Literal["rewound", "restarted"],
    typer.Option(help="weight_rewind: clock at K (the report's text) or at 0 (its code)."),
]
OptimizerState = Annotated[
    Literal["zero", "restored"], typer.Option(help="Momentum at the start: zero, or that of the checkpoint.")
]
DataOrder = Annotated[
    Literal["replayed", "continued"],
    typer.Option(help="Batches after rewound weights: those that followed them, or new ones."),
]
