"""rewindctl retrain"""

import typer

from rewindctl.cli.choices import (
    PANELS,
    ChannelNorm,
    Compression,
    Criterion,
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
    Sparsity,
    Structure,
    WeightsK,
)
from rewindctl.cli.session import Session, command
from rewindctl.sparsity import target_sparsity


@command(runs=True, panels=PANELS)
def retrain(
    session: Session,
    parent: Parent,
    method: Method,
    k: K = None,
    weights_k: WeightsK = None,
    lr_k: LrK = None,
    lr: Rate = None,
    iterations: RetrainIterations = None,
    lr_clock: LrClock = "rewound",
    optimizer_state: OptimizerState = "zero",
    momentum: Momentum = None,
    sparsity: Sparsity = None,
    compression: Compression = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: Criterion = "magnitude",
) -> None:
    """Retrain a prune run; a dense run with --sparsity or --compression is pruned first.

    Examples:
        rewindctl retrain --parent 3f2a9c --method lr_rewind
        rewindctl retrain --parent 3f2a9c --method weight_rewind --k 2000
        rewindctl retrain --parent models:/resnet8-digits-dense@seed-0 --compression 20 --method finetune --lr 0.001
        rewindctl retrain --parent 3f2a9c --method rewind --weights-k 2000 --lr-k 0
    """
    from rewindctl.pipeline import iterate
    from rewindctl.pipeline.requests import PruneOptions, RetrainOptions

    options = RetrainOptions(method, k, weights_k, lr_k, lr, iterations, lr_clock, optimizer_state, momentum)
    pruning = PruneOptions(structure, scope, channel_norm, criterion)
    target = None if sparsity is None and compression is None else target_sparsity(sparsity, compression)
    if target is None:
        pruning.refuse()  # before a store is opened
    pipeline = session.pipeline()
    session.show_outcome(iterate.retrain(pipeline, pipeline.registry.resolve(parent), target, pruning, options))


def register(app: typer.Typer) -> None:
    app.command("retrain")(retrain)
