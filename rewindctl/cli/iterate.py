"""rewindctl iterate"""

from typing import Annotated

import typer

from rewindctl.cli.choices import (
    PANELS,
    Asked,
    ChannelNorm,
    Criterion,
    Exclude,
    Parent,
    Scope,
    Structure,
)
from rewindctl.cli.session import Session, command


@command(runs=True, panels={"Levels": ("step", "until"), **PANELS})
def iterate(
    session: Session,
    *,
    parent: Parent,
    step: Annotated[float, typer.Option(help="Fraction of the remaining weights removed at each level.")] = 0.2,
    until: Annotated[
        float, typer.Option(help="Sparsity to reach: the last level is the first at or above it.")
    ] = 0.893,
    retraining: Asked,
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
    from rewindctl.engines.in_turn import run_in_turn
    from rewindctl.pipeline.plan import plan_iterate, sparsity_grid
    from rewindctl.pipeline.requests import PruneOptions

    levels = sparsity_grid(step, until)
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude or ())
    pipeline = session.pipeline()
    dense = pipeline.registry.resolve(parent)
    for outcome in run_in_turn(pipeline, plan_iterate(pipeline, dense, levels, pruning, retraining)):
        session.show_outcome(outcome)
