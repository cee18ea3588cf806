"""rewindctl replay"""

from typing import Annotated

import typer

from rewindctl.cli.choices import Parent
from rewindctl.cli.session import Session, command


@command(runs=True)
def replay(
    session: Session,
    parent: Parent,
    iteration: Annotated[int, typer.Option(help="Iteration of the parent whose state is needed.")],
) -> None:
    """Recompute the state of a training at an iteration that it did not record, with the same bytes, in a new run.

    `retrain --k` and `prune --iteration` do this when needed. The replay trains from the nearest earlier state.

    Examples:
        rewindctl replay --parent models:/resnet8-digits-dense@seed-0 --iteration 45
        rewindctl replay --parent 3f2a9c --iteration 12345
    """
    from rewindctl.engines.in_turn import run_in_turn
    from rewindctl.pipeline.plan import plan_replay

    pipeline = session.pipeline()
    training = pipeline.registry.resolve(parent)
    session.show_outcome(*run_in_turn(pipeline, plan_replay(pipeline, training, iteration)))
