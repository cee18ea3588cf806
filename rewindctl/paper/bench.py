"""What a device will do: updates per second of the paper's networks, hours of each study from nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rewindctl.checks.lane_speed import LaneCurve, best_lanes
from rewindctl.checks.speed import Speed
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.at_once import at_once
from rewindctl.paper.cost import State, iterations_to_do, time_text
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.paper.reference import DEVICE_OF_PAPER, paper_tables
from rewindctl.paper.request import ALL, studies_of
from rewindctl.paper.study import shipped
from rewindctl.pipeline.requests import dense_spec
from rewindctl.specs import DenseSpec

DATASET = "cifar10"  # its shape and batch; that of CIFAR-100 differs in the last layer alone
LONGEST_SECONDS = 3_600.0
Facts = Callable[[str], DataFacts]


def published_speeds() -> dict[str, float]:
    """Updates per second of the paper's networks on its own device. Source: the paper, table 4."""
    return {row["key"]: float(row["iterations_per_second"]) for row in paper_tables()["table_4"]["rows"]}


def specs_to_measure(models: Sequence[str], facts: Facts, seconds: float) -> list[DenseSpec]:
    """A baseline of each network (none: the paper's). Raises: UsageError."""
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"--seconds {seconds:g} is outside 0 to {LONGEST_SECONDS:,.0f}", "give a measuring time, such as 10"
        )
    return [dense_spec(model, facts(DATASET), 0) for model in dict.fromkeys(models or published_speeds())]


def bench_json(
    measured: dict[str, Speed],
    facts: Facts,
    device: str,
    curves: Mapping[str, LaneCurve] | None = None,
    no_lanes: str = "",
) -> dict[str, Any]:
    """Ours beside the published speeds, and what each shipped study costs at ours, one stage at a time.

    `hours` are those of the training iterations; None where a network that the study needs was not measured.
    `curves`: of networks whose trials run at once by kernels of our own, then with the hours of studies at the fastest
    number of them; `no_lanes`: why there are none.
    """
    curves = curves or {}
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
            "lanes": _lanes(curves[model]) if model in curves else None,
        }
        for model, speed in speeds.items()
    ]
    names: Iterable[str] = (*shipped(), ALL)
    studies = [_study(name, make_plan(studies_of((name,)), facts, None), speeds, curves) for name in names]
    return {"device": device, "networks": networks, "studies": studies, "no_lanes": no_lanes or None}


def bench_text(bench: dict[str, Any]) -> str:
    """The networks and studies that `bench_json` made."""
    lines = [bench["device"], "", f"{'network':12}{'precision':10}{'it/s':>10}{'paper it/s':>13}{'ratio':>9}"]
    for network in bench["networks"]:
        published, ratio = network["published_iterations_per_second"], network["ratio"]
        beside = "" if published is None else f"{published:>13.1f}{ratio:>8.3g}x"
        lines.append(f"{network['model']:12}{network['precision']:10}{network['iterations_per_second']:>10.4g}{beside}")
    lines += _lanes_text(bench)
    width = max(len(study["name"]) for study in bench["studies"])
    several = any(study["hours_at_once"] is not None for study in bench["studies"])
    head = f"{'study':{width}}{'trials':>8}{'iterations':>13}{'time':>10}"
    lines += ["", head + (f"{'at once':>10}" if several else "")]
    for study in bench["studies"]:
        missing = ", ".join(study["not_measured"])
        time = f"{'':10}  not measured: {missing}" if missing else f"{time_text(3600 * study['hours']):>10}"
        if study["hours_at_once"] is not None:
            time += f"{time_text(3600 * study['hours_at_once']):>10}"
        lines.append(f"{study['name']:{width}}{study['trials']:>8}{study['iterations']:>13,}{time}")
    lines += ["", f"One stage at a time, from nothing. The paper's speeds: {DEVICE_OF_PAPER}."]
    if several:
        lines.append("At once: as many trials as are fastest together, by kernels of our own.")
    return "\n".join(lines)


def _lanes(curve: LaneCurve) -> dict[str, Any]:
    """Updates per second by how many trials run at once, in sum and of each; which number is fastest, why no more."""
    rows = [
        {"trials": count, "iterations_per_second": speed, "iterations_per_second_each": speed / count}
        for count, speed in sorted(curve.speeds.items())
    ]
    return {"best": best_lanes(curve, max(curve.speeds)), "ended": curve.ended or None, "speeds": rows}


def _lanes_text(bench: dict[str, Any]) -> list[str]:
    """The table of trials at once, or why there is none."""
    networks = [network for network in bench["networks"] if network["lanes"]]
    if not networks:
        return ["", f"Several trials at once by kernels of our own: {bench['no_lanes']}"] if bench["no_lanes"] else []
    lines = ["", "Several trials at once by kernels of our own (--update-step fused):"]
    lines.append(f"{'network':12}{'at once':>10}{'it/s in sum':>14}{'it/s each':>12}")
    for network in networks:
        lanes = network["lanes"]
        for row in lanes["speeds"]:
            best = "  taken" if row["trials"] == lanes["best"] else ""
            speed, each = row["iterations_per_second"], row["iterations_per_second_each"]
            lines.append(f"{network['model']:12}{row['trials']:>10}{speed:>14.4g}{each:>12.4g}{best}")
        if lanes["ended"]:
            lines.append(f"{'':12}{lanes['ended']}")
    return lines


def _study(name: str, plan: StudyPlan, speeds: dict[str, float], curves: Mapping[str, LaneCurve]) -> dict[str, Any]:
    todo = iterations_to_do(plan, State())
    missing = sorted({model for model, _ in todo if model not in speeds})
    together = at_once(plan, State(), {pair: curves[pair[0]] for pair in todo if pair[0] in curves})
    hours = None if missing else sum(count / speeds[model] for (model, _), count in todo.items()) / 3600
    return {
        "name": name,
        "title": "the paper's studies, stages that they share once" if name == ALL else shipped()[name].title,
        "trials": len(plan.seeds),
        "iterations": sum(todo.values()),
        "hours": hours,
        "hours_at_once": together and together[1],
        "not_measured": missing,
    }
