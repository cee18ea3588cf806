"""rewindctl train-dense"""

from typing import Annotated

import typer

from rewindctl.cli import complete, parse
from rewindctl.cli.session import Session, command
from rewindctl.cli.trials import Jobs, show_trials


@command(
    runs=True, panels={"Training": ("recipe", "iterations", "batch_size", "lr", "rewind_points", "evaluate_every")}
)
def train_dense(
    session: Session,
    model: Annotated[
        str,
        typer.Option(
            help="resnet20, resnet56, resnet110, wrn16_8, resnet8, ...", autocompletion=complete.names("model")
        ),
    ],
    dataset: Annotated[
        str, typer.Option(help="digits, cifar10, cifar100, or an imported one.", autocompletion=complete.datasets)
    ],
    seed: Annotated[int | None, typer.Option(help="Seed of one baseline. [0]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several baselines: 0-4, or 0,2,5.")] = None,
    jobs: Jobs = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="resnet, wrn or digits. [by model and data]", autocompletion=complete.names("recipe")),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Length; the schedule scales with it. [the recipe's]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per iteration. [the recipe's]")] = None,
    lr: Annotated[float | None, typer.Option(help="Initial learning rate. [the recipe's]")] = None,
    rewind_points: Annotated[str | None, typer.Option(help="Iterations to keep, as 0,500,2000. [doubling]")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Iterations between evaluations. [the recipe's]")] = None,
) -> None:
    """Train dense baselines and keep the checkpoints that networks can be rewound to.

    Examples:
        rewindctl train-dense --model resnet8 --dataset digits
        rewindctl train-dense --model resnet20 --dataset cifar10 --seeds 0-2 --rewind-points 0,500,2000
        rewindctl train-dense --model resnet20 --dataset cifar10 --seeds 0-7 --jobs 4
        rewindctl train-dense --model wrn16_8 --dataset cifar10 --seed 1 --iterations 8000 --device cuda:0
    """
    from rewindctl.pipeline.plan import plan_dense
    from rewindctl.pipeline.requests import dense_spec

    chosen = parse.one_or_more_seeds(seed, seeds)
    points = parse.iterations("rewind-points", rewind_points)
    pipeline = session.pipeline()
    specs = [
        dense_spec(
            model,
            pipeline.dataset(dataset),
            one,
            recipe=recipe,
            iterations=iterations,
            batch_size=batch_size,
            learning_rate=lr,
            points=points,
            evaluate_every=evaluate_every,
        )
        for one in chosen
    ]
    show_trials(session, pipeline, plan_dense(specs), jobs)
