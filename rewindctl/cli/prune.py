"""rewindctl prune"""

from typing import Annotated

import typer

from rewindctl.cli.choices import ChannelNorm, Compression, Criterion, Exclude, Parent, Scope, Sparsity, Structure
from rewindctl.cli.session import Session, command
from rewindctl.options import target_sparsity


@command(runs=True)
def prune(
    session: Session,
    parent: Parent,
    sparsity: Sparsity = None,
    compression: Compression = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: Criterion = "magnitude",
    exclude: Exclude = None,
    iteration: Annotated[
        int | None, typer.Option(help="Iteration of the parent whose weights are pruned. [the last]")
    ] = None,
) -> None:
    """Make a mask over the weights of a dense or a retrained run.

    Examples:
        rewindctl prune --parent models:/resnet20-cifar10-dense@seed-0 --compression 9.35
        rewindctl prune --parent 3f2a9c --sparsity 0.5 --structure structured --channel-norm remove
        rewindctl prune --parent 3f2a9c --sparsity 0.893 --scope layerwise --iteration 2000
        rewindctl prune --parent 3f2a9c --sparsity 0.5 --criterion random --exclude stem --exclude 'blocks.0.*'
    """
    from rewindctl.engines.in_turn import run_in_turn
    from rewindctl.pipeline.plan import plan_prune
    from rewindctl.pipeline.requests import PruneOptions

    target = target_sparsity(sparsity, compression)
    options = PruneOptions(structure, scope, channel_norm, criterion, iteration, exclude or ())
    pipeline = session.pipeline()
    run = pipeline.registry.resolve(parent)
    session.show_outcome(*run_in_turn(pipeline, plan_prune(run, target, options)))
