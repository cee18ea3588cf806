"""rewindctl prune"""

import typer

from rewindctl.cli import parse
from rewindctl.cli.choices import ChannelNorm, Compression, Criterion, Parent, Scope, Sparsity, Structure
from rewindctl.cli.session import Session, command


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
) -> None:
    """Make a mask over the weights of a dense or a retrained run.

    Example: rewindctl prune --parent models:/resnet20-cifar10-dense@seed-0 --compression 9.35
    """
    from rewindctl.pipeline.requests import PruneOptions, prune_spec

    target = parse.target_sparsity(sparsity, compression)
    options = PruneOptions(structure, scope, channel_norm, criterion)
    pipeline = session.pipeline()
    run = pipeline.registry.resolve(parent)
    session.show_outcome(pipeline.run_prune(prune_spec(run, target, options), run))


def register(app: typer.Typer) -> None:
    app.command("prune")(prune)
