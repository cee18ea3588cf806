"""rewindctl retrain"""

from rewindctl.cli.choices import (
    PANELS,
    Asked,
    ChannelNorm,
    Compression,
    Criterion,
    Exclude,
    Parents,
    Scope,
    Sparsity,
    Structure,
)
from rewindctl.cli.session import Session, command
from rewindctl.cli.trials import Jobs, show_trials
from rewindctl.options import target_sparsity


@command(runs=True, panels=PANELS)
def retrain(
    session: Session,
    parent: Parents,
    retraining: Asked,
    jobs: Jobs = None,
    sparsity: Sparsity = None,
    compression: Compression = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: Criterion = "magnitude",
    exclude: Exclude = None,
) -> None:
    """Retrain prune runs; a dense run with --sparsity or --compression is pruned first.

    Examples:
        rewindctl retrain --parent 3f2a9c --parent 81d0e4 --method lr_rewind --jobs 2
        rewindctl retrain --parent 3f2a9c --method weight_rewind --k 2000
        rewindctl retrain --parent models:/resnet8-digits-dense@seed-0 --compression 20 --method finetune --lr 0.001
        rewindctl retrain --parent 3f2a9c --method rewind --weights-k 2000 --lr-k 0
    """
    from rewindctl.pipeline.plan import plan_retrain
    from rewindctl.pipeline.requests import PruneOptions

    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude or ())
    target = None if sparsity is None and compression is None else target_sparsity(sparsity, compression)
    if target is None:
        pruning.refuse()  # before a store is opened
    pipeline = session.pipeline()
    parents = [pipeline.registry.resolve(one) for one in parent]
    show_trials(session, pipeline, plan_retrain(pipeline, parents, target, pruning, retraining), jobs)
