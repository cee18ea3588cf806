"""rewindctl demo"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rewindctl.cli import complete, parse
from rewindctl.cli.session import Session, command


@command(runs=True)
def demo(
    session: Session,
    model: Annotated[str, typer.Option(help="Network.", autocompletion=complete.names("model"))] = "resnet8",
    dataset: Annotated[str, typer.Option(help="Data set.", autocompletion=complete.datasets)] = "digits",
    seeds: Annotated[str, typer.Option(help="Trials.")] = "0-2",
    compressions: Annotated[str, typer.Option(help="Total / kept kernel weights.")] = "20,50",
    k: Annotated[int, typer.Option("--k", help="Iteration that weight rewinding goes back to.")] = 30,
    iterations: Annotated[int | None, typer.Option(help="Length of a dense run. [the recipe's]")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the table and the figure.")] = Path("demo"),
) -> None:
    """Run the whole chain: dense, prune, three retrainings, compare. Minutes on a laptop; what exists is reused.

    Examples:
        rewindctl demo
        rewindctl demo --seeds 0-4 --compressions 10,20,50
        rewindctl demo --model resnet20 --dataset cifar10 --seeds 0 --iterations 1000 --k 100
    """
    from rewindctl.engines.in_turn import run_in_turn
    from rewindctl.pipeline.plan import plan_grid
    from rewindctl.report.compare import Wanted, compare, first_claim
    from rewindctl.rewinding.methods import RetrainOptions

    chosen, targets = parse.one_or_more_seeds(None, seeds), parse.compressions(compressions)
    methods = (
        RetrainOptions(method="finetune"),
        RetrainOptions(method="weight_rewind", k=k),
        RetrainOptions(method="lr_rewind"),
    )
    pipeline = session.pipeline()
    run_in_turn(pipeline, plan_grid(pipeline, model, dataset, chosen, targets, methods, iterations))
    registry = pipeline.registry
    form = "json" if session.json else "text"
    result = compare(registry, Wanted(figure="curves", format=form, delta="points", model=model, dataset=dataset))
    paths = result.write(output)
    session.console.data(result.text)
    session.console.say(f"\n{first_claim(result.cells)}\nfigure: {paths[0]}")
    session.console.say(f"browse: {_program()} ui --tracking-uri {registry.display_uri}")


def _program() -> str:
    """How this program was called, so that the line can be typed as it is (the environment may not be active)."""
    return sys.argv[0] if Path(sys.argv[0]).name == "rewindctl" else "python -m rewindctl"
