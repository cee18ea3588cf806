"""Studies and plans as people read them."""

from typing import Any

from rewindctl.counting import count_of
from rewindctl.paper.study import Study

GIGABYTE = 1e9
DEVICE_OF_PAPER = "RTX 3080, TensorFlow 2.4.2"


def studies_text(studies: list[Study]) -> str:
    """A line per study: name, cells, title."""
    width = max(len(study.name) for study in studies)
    counts = [count_of(cell_count(study), "cell") for study in studies]
    widest = max(map(len, counts))
    return "\n".join(
        f"{study.name:<{width}}  {count:<{widest}}  {study.title}" for study, count in zip(studies, counts, strict=True)
    )


def studies_json(studies: list[Study]) -> list[dict[str, Any]]:
    return [
        {
            "name": study.name,
            "title": study.title,
            "source": study.source,
            "part_of_report": study.part_of_paper,
            "trials": study.trials,
            "cells": cell_count(study),
        }
        for study in studies
    ]


def cell_count(study: Study) -> int:
    return sum(max(1, len(panel.sparsities) * len(panel.methods)) for panel in study.panels)


def plan_text(plan: dict[str, Any]) -> str:
    """The plan that `plan_json` made, without its single stages."""
    totals = plan["totals"]
    scale = "" if totals["scale"] == 1 else f", all iterations times {totals['scale']:g}: not the paper's results"
    columns = ["stages", "done", *(["known"] if totals["known"] else []), "todo", "shared"]
    lines = [
        f"{count_of(totals['cells'], 'cell')}, trials: {totals['trials']}{scale}",
        "",
        f"{'':8}" + "".join(f"{'to do' if name == 'todo' else name:>8}" for name in columns),
    ]
    for kind, counts in [*plan["kinds"].items(), ("all", totals)]:
        lines.append(f"{kind:8}" + "".join(f"{counts[key]:>8,}" for key in columns))
    lines.append("")
    for network in plan["networks"]:
        speed = network["iterations_per_second"]
        left = network["iterations_todo"]
        pace = "a speed not known" if speed is None else f"{speed:.4g} it/s, {_time(left / speed)}"
        lines.append(f"{network['model']} on {network['dataset']}: {left:,} iterations at {pace}")
    time = "a time not known" if totals["hours"] is None else _time(3600 * totals["hours"])
    lines.append(
        f"to do: {totals['iterations_todo']:,} of {totals['iterations']:,} iterations, {time} on {totals['device']} "
        f"one at a time, {totals['bytes'] / GIGABYTE:.2f} GB of artifacts"
    )
    if replayed := totals["iterations_replayed"]:
        lines.append(f"of these {count_of(replayed, 'iteration')} replay points that finished trainings did not record")
    if totals["missing_data"]:
        lines.append(f"missing data: {', '.join(totals['missing_data'])}; see: rewindctl data list")
    return "\n".join(lines)


def bench_text(bench: dict[str, Any]) -> str:
    """The networks and studies that `bench_json` made."""
    lines = [bench["device"], "", f"{'network':12}{'precision':10}{'it/s':>10}{'paper it/s':>13}{'ratio':>9}"]
    for network in bench["networks"]:
        published, ratio = network["published_iterations_per_second"], network["ratio"]
        beside = "" if published is None else f"{published:>13.1f}{ratio:>8.3g}x"
        lines.append(f"{network['model']:12}{network['precision']:10}{network['iterations_per_second']:>10.4g}{beside}")
    width = max(len(study["name"]) for study in bench["studies"])
    lines += ["", f"{'study':{width}}{'trials':>8}{'iterations':>13}{'time':>10}"]
    for study in bench["studies"]:
        missing = ", ".join(study["not_measured"])
        time = f"{'':10}  not measured: {missing}" if missing else f"{_time(3600 * study['hours']):>10}"
        lines.append(f"{study['name']:{width}}{study['trials']:>8}{study['iterations']:>13,}{time}")
    lines += ["", f"One stage at a time, from nothing. The paper's speeds: {DEVICE_OF_PAPER}."]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """`40 s`, `25 min`, `3.5 h`, `1,540 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds >= 36_000 else f"{seconds / 3600:.1f} h"
