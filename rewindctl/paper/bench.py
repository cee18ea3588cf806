"""What a device will do: updates per second of the report's networks, hours of each study from nothing."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rewindctl.checks.speed import Speed
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.cost import State, iterations_to_do
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.paper.reference import report_tables
from rewindctl.paper.request import ALL, studies_of
from rewindctl.paper.study import shipped
from rewindctl.pipeline.requests import dense_spec
from rewindctl.specs import DenseSpec

DATASET = "cifar10"  # its shape and batch; that of CIFAR-100 differs in the last layer alone
LONGEST_SECONDS = 3_600.0
Facts = Callable[[str], DataFacts]


def published_speeds() -> dict[str, float]:
    """Updates per second of the report's networks on its own device. Source: report table 4."""
    return {row["key"]: float(row["iterations_per_second"]) for row in report_tables()["table_4"]["rows"]}


def specs_to_measure(models: Sequence[str], facts: Facts, seconds: float) -> list[DenseSpec]:
    """A baseline of each network (none: the report's). Raises: UsageError."""
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"--seconds {seconds:g} is outside 0 to {LONGEST_SECONDS:,.0f}", "give a measuring time, such as 10"
        )
    return [dense_spec(model, facts(DATASET), 0) for model in dict.fromkeys(models or published_speeds())]


def bench_json(measured: dict[str, Speed], facts: Facts, device: str) -> dict[str, Any]:
    """Ours beside the published speeds, and what each shipped study costs at ours, one stage at a time.

    `hours` are those of the training iterations; None where a network that the study needs was not measured.
    """
    published = published_speeds()
    speeds = {model: speed.iterations_per_second for model, speed in measured.items()}
    networks = [
        {
            "model": model,
            "dataset": DATASET,
            "precision": measured[model].precision,
            "step": measured[model].step,
            "iterations_per_second": speed,
            "published_iterations_per_second": published.get(model),
            "ratio": speed / published[model] if model in published else None,
        }
        for model, speed in speeds.items()
    ]
    names: Iterable[str] = (*shipped(), ALL)
    studies = [_study(name, make_plan(studies_of((name,)), facts, None), speeds) for name in names]
    return {"device": device, "networks": networks, "studies": studies}


def _study(name: str, plan: StudyPlan, speeds: dict[str, float]) -> dict[str, Any]:
    todo = iterations_to_do(plan, State())
    missing = sorted({model for model, _ in todo if model not in speeds})
    hours = None if missing else sum(count / speeds[model] for (model, _), count in todo.items()) / 3600
    return {
        "name": name,
        "title": "the report's studies, stages that they share once" if name == ALL else shipped()[name].title,
        "trials": len(plan.seeds),
        "iterations": sum(todo.values()),
        "hours": hours,
        "not_measured": missing,
    }
