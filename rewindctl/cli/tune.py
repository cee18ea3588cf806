"""rewindctl tune"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rewindctl.cli import choices
from rewindctl.cli.choices import Parent, Retraining
from rewindctl.cli.session import Session, command, run_json
from rewindctl.rewinding.methods import OPTIONS, RetrainOptions

PANELS = {
    choices.RETRAINING: tuple(OPTIONS),
    "Search": ("trials", "study", "storage", "space", "pruner", "seed", "jobs"),
    "Judgement": ("seeds", "holdout", "holdout_seed", "evaluate_every", "compare_seeds"),
}


SEARCHED = sorted(
    (name for name, one in OPTIONS.items() if one.number), key=lambda name: OPTIONS[name].point is not None
)
FIXED = Retraining(
    method="finetune",
    without=tuple(name for name, one in OPTIONS.items() if not one.tune),
    texts={
        "lr": "finetune: constant learning rate, if it is not searched.",
        "iterations": "Length of a training, if it is not searched. [that of the dense run]",
    },
)


@command(
    runs=True,
    panels=PANELS,
    kept="finished search trials are kept; unfinished ones start again when the search continues",
)
def tune(
    session: Session,
    *,
    parent: Parent,
    trials: Annotated[
        int, typer.Option(min=1, help="Total number of search trials, including those of earlier calls.")
    ] = 20,
    study: Annotated[
        str | None, typer.Option(help="Name of the search; the same name continues it. [from parent and options]")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Journal file, or a database's URL. [optuna-journal.log beside the store]")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            help=f"YAML: {', '.join(SEARCHED)}. [finetune: lr 0.00001-0.1; weight_rewind: k; rewind: weights_k, lr_k]"
        ),
    ] = None,
    retraining: Annotated[RetrainOptions, FIXED],
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="Trainings per search trial; its value is their median.")
    ] = 1,
    holdout: Annotated[float, typer.Option(help="Fraction of the training set that is held out for validation.")] = 0.1,
    holdout_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed that chooses the held-out images.")] = 0,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Iterations between evaluations. [a 20th of the longest]")
    ] = None,
    pruner: Annotated[
        Literal["auto", "halving", "wilcoxon", "none"],
        typer.Option(
            help="Stops bad search trials: halving in one training, wilcoxon from the third seed. [by --seeds]"
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the sampler (TPE).")] = 0,
    compare_seeds: Annotated[
        int, typer.Option(min=0, max=100, help="Seeds of the comparison with fine-tuning at 0.001; 0: none.")
    ] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Search trials run in parallel on this machine.")] = 1,
) -> None:
    """Search the settings of a retraining on a held-out part of the training set, never on the test set.

    The same command goes on with a search, joins one that is under way, or finds it done.

    Examples:
        rewindctl tune --parent 3f2a9c --method finetune --trials 20
        rewindctl tune --parent 3f2a9c --method weight_rewind --lr-clock restarted --seeds 3 --jobs 2
        rewindctl tune --parent 3f2a9c --method rewind --lr-k 0 --trials 12
        rewindctl tune --parent 3f2a9c --study night --storage journal.log --space space.yaml --trials 50
    """
    from rewindctl.tuning.request import TuneRequest
    from rewindctl.tuning.study import tune as search
    from rewindctl.tuning.summary import summary_lines

    request = TuneRequest(
        retraining=retraining,
        trials=trials,
        study=study,
        storage=storage,
        space_file=space,
        seeds=seeds,
        holdout=holdout,
        holdout_seed=holdout_seed,
        evaluate_every=evaluate_every,
        pruner=pruner,
        sampler_seed=seed,
        compare_seeds=compare_seeds,
        jobs=jobs,
    )
    tuned = search(session.pipeline(), request, parent)
    for line in summary_lines(tuned.best) if tuned.best else ():
        session.console.say(line)
    if session.json:
        session.console.json(run_json(tuned.run) | {"reused": tuned.reused, "tuning": tuned.best})
    else:
        session.console.data(tuned.run.run_id)
