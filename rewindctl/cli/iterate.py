"""rewindctl iterate"""

from typing import Annotated

import typer

from rewindctl.cli.choices import (
    PANELS,
    ChannelNorm,
    Criterion,
    DataOrder,
    Exclude,
    K,
    LrClock,
    LrK,
    Method,
    Momentum,
    OptimizerState,
    Parent,
    Rate,
    RetrainIterations,
    Scope,
    Structure,
    WeightsK,
)
from rewindctl.cli.session import Session, command


@command(runs=True, panels={"Levels": ("step", "until"), **PANELS})
def iterate(
    session: Session,
    parent: Parent,
    method: Method,
    step: Annotated[float, typer.Option(help="Fraction of the remaining weights removed at each level.")] = 0.2,
    until: Annotated[
        float, typer.Option(help="Sparsity to reach: the last level is the first at or above it.")
    ] = 0.893,
    k: K = None,
    weights_k: WeightsK = None,
    lr_k: LrK = None,
    lr: Rate = None,
    iterations: RetrainIterations = None,
    lr_clock: LrClock = "rewound",
    optimizer_state: OptimizerState = "zero",
    momentum: Momentum = None,
    data_order: DataOrder = "replayed",
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: Criterion = "magnitude",
    exclude: Exclude = None,
) -> None:
    """Prune and retrain in turn, level by level, from a dense run; prints the retrain run of each level.

    Examples:
        rewindctl iterate --parent models:/resnet8-digits-dense@seed-0 --method lr_rewind --step 0.5 --until 0.9
        rewindctl iterate --parent 3f2a9c --method weight_rewind --k 2000 --step 0.2 --until 0.893
        rewindctl iterate --parent 3f2a9c --method finetune --lr 0.001 --structure structured --until 0.5
    """
    from rewindctl.pipeline import iterate as walk
    from rewindctl.pipeline.requests import PruneOptions, RetrainOptions

    levels = walk.sparsity_grid(step, until)
    retraining = RetrainOptions(
        method, k, weights_k, lr_k, lr, iterations, lr_clock, optimizer_state, momentum, data_order
    )
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude or ())
    pipeline = session.pipeline()
    dense = pipeline.registry.resolve(parent)
    for _, retrained in walk.iterate(pipeline, dense, levels, pruning, retraining):
        session.show_outcome(retrained)


def register(app: typer.Typer) -> None:
    app.command("iterate")(iterate)
