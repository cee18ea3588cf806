"""The paper's claims against trials: an effect, an interval and a verdict for each claim in each scenario.

A scenario is a network, data, dense recipe, pruning, schedule and step, and the settings of the methods compared. A
trial is a dense baseline: its effect is the mean, over the compressions that both methods have, of the accuracy
difference in percentage points. Claims bound the effect: fine-tuning - rewinding < 0 (claim 1, against both kinds of
rewinding), LR rewinding - the other > -margin (claims 2 and 3). *Supported*: the effect is significantly on the
claim's side of the bound. *Contradicted*: significantly on the other side of the same bound, so that no effect is
both, and a claim of "as good as" is not contradicted by a difference that it allows. Each is tested at 2.5 %, which
is when the 95 % interval lies wholly on that side; a scenario's verdict is then wrong in at most 2.5 % of repeats
in either direction. See `evidence` for the tests and for what they assume.
"""

import math
from collections.abc import Iterator
from itertools import product, zip_longest
from typing import Any

import pandas as pd

from rewindctl.counting import count_of
from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.claims import CLAIMS, CONTRADICTED, NOT_JUDGED, SUPPORTED, UNDECIDED, Claim, paper_source
from rewindctl.paper.plan import pruning_name
from rewindctl.report import evidence
from rewindctl.report.cells import PRECISIONS, SETTINGS
from rewindctl.report.contrast import (
    LEVEL_TEXT,
    NO_PUBLISHED,
    SCENARIO,
    against_ours,
    against_published,
    significant,
    trials_of,
)
from rewindctl.report.tables import method_name

MARGIN = 0.1
OF_SCENARIO = ("model", "dataset", "iterations", "scale", *SETTINGS, "schedule", "step", *PRECISIONS)
OF_PAIRS = ("p", "p_above", "p_below", "deviation", "needed")  # claims have p-values of their own sides


def verdicts(frame: pd.DataFrame, margin: float = MARGIN, accuracy: str = "final") -> pd.DataFrame:
    """Rows of every claim from the rows of `tidy_frame`, unrounded; `claims_table` makes them readable.

    `role`: `overall` (the claim in all scenarios of the paper that were run, or in all others), `scenario`, or
    `part` (one of claim 1's two comparisons). `margin`, `effect`, `low`, `high`, `smallest_effect`: percentage points;
    `smallest_effect` is the distance from `bound` that n trials show with 80 % power, given these trials' deviation.
    `lowest` and `highest` compression of `levels` that are averaged; `left_out` trials lack some of them. `report`: the
    paper's verdict, "-" where it has no such scenario or this one is scaled down.
    Raises: UsageError for a wrong margin, RewindError where no two methods can be compared.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin {margin} is not a number of percentage points", "give 0 or more, such as 0.1")
    trials = trials_of(frame, accuracy)
    rows: list[dict[str, Any]] = []
    for claim in CLAIMS:
        made = [
            row
            for _, of_scenario in trials.groupby(SCENARIO, dropna=False, sort=False)
            if of_scenario["schedule"].iloc[0] in claim.schedules
            for row in _scenario_rows(claim, of_scenario, margin)
        ]
        rows += [*overall_rows(claim, made), *made]
    if not rows:
        raise RewindError(
            "no claim can be judged: no scenario has two of its methods",
            "retrain the same prune runs with finetune, weight_rewind and lr_rewind",
        )
    return pd.DataFrame(rows)


def _scenario_rows(claim: Claim, trials: pd.DataFrame, margin: float) -> Iterator[dict[str, Any]]:
    """Each comparison of the claim's methods in one scenario, each with its settings."""
    arms = {method: [rows for _, rows in of_method.groupby("label")] for method, of_method in trials.groupby("method")}
    for own in arms.get(claim.method, []):
        if not claim.against:
            yield _row(claim, own, None, margin)
            continue
        parts = [
            (method, _row(claim, own, other, margin)) for method in claim.against for other in arms.get(method, [])
        ]
        if len(claim.against) == 1:
            yield from (row for _, row in parts)
        elif parts:
            yield from _in_both(claim, parts)


def _in_both(claim: Claim, parts: list[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row for each choice of one setting of both methods, then the comparisons that they rest on."""
    first, second = ([row for method, row in parts if method == wanted] for wanted in claim.against)
    for one, other in zip_longest(first, second) if not (first and second) else product(first, second):
        yield _both(claim, one, other)
    for _, row in parts:
        yield row | {"role": "part"}


def _both(claim: Claim, one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any]:
    """The claim against two methods, with the numbers of the comparison that speaks for it less.

    Both comparisons must hold (an intersection-union test: no correction); either one contradicts it, so the smaller
    p-value counts twice (Bonferroni).
    """
    parts = [part for part in (one, other) if part is not None]
    limiting = max(parts, key=lambda part: (or_one(part["p_supported"]), part["effect"] or 0.0))
    row = dict(limiting)
    row["p_supported"] = max(or_one(part["p_supported"]) for part in parts) if len(parts) == 2 else None
    known = [part["p_contradicted"] for part in parts if part["p_contradicted"] is not None]
    row["p_contradicted"] = min(1.0, len(parts) * min(known)) if known else None
    row |= _decision(row, _longest_need(parts))
    if len(parts) == 2:
        row["comparison"] = f"{parts[0]['comparison']} and {parts[1]['comparison'].partition(' - ')[2]}"
        sources = {part["report_source"] for part in parts}
        if "" in sources:
            row |= {"report": "-", "report_source": ""}
    elif row["verdict"] == UNDECIDED:
        missing = claim.against[0 if one is None else 1]
        row["remark"] = f"no {method_name(missing, missing)} here"
    return row


def _longest_need(parts: list[dict[str, Any]]) -> str:
    """What the comparison that speaks least for the claim needs: a trial more where only the correction forbids it."""
    undecided = [part for part in parts if part["verdict"] != SUPPORTED] or parts
    limiting = max(undecided, key=lambda part: or_one(part["p_supported"]))
    return limiting["remark"] or f"needs about {limiting['n'] + 1} trials"


def _row(claim: Claim, own: pd.DataFrame, other: pd.DataFrame | None, margin: float) -> dict[str, Any]:
    """The claim's method against another on the same dense runs, or (None) against the published numbers."""
    scenario, bound = own.iloc[0], 0.0 if claim.direction == "worse" else -margin
    numbers = against_published(own, bound) if other is None else against_ours(own, other, bound)
    sides = [scenario] if other is None else [scenario, other.iloc[0]]
    source = paper_source(scenario, tuple(side["label"] for side in sides))
    report = claim.papers_verdict_in(source) or "-"
    names = [method_name(side["method"], side["label"]) for side in sides]
    sided = ("p_below", "p_above") if claim.direction == "worse" else ("p_above", "p_below")
    row = {
        "claim": claim.number,
        "role": "scenario",
        **{key: scenario[key] for key in OF_SCENARIO},
        "comparison": " - ".join([*names, "published LR rewinding"][:2]),
        **{name: value for name, value in numbers.items() if name not in OF_PAIRS},
        **{name: numbers[p] for name, p in zip(("p_supported", "p_contradicted"), sided, strict=True)},
        "bound": bound,
        "direction": claim.direction,
        "report": report,
        "report_source": source if report != "-" else "",
    }
    return row | _decision(row, numbers["remark"])


def _decision(row: dict[str, Any], need: str) -> dict[str, str]:
    if row["basis"] == NO_PUBLISHED:
        return {"verdict": NOT_JUDGED, "remark": need}
    if significant(row["p_supported"]):
        return {"verdict": SUPPORTED, "remark": ""}
    if significant(row["p_contradicted"]):
        return {"verdict": CONTRADICTED, "remark": ""}
    return {"verdict": UNDECIDED, "remark": need}


MOST_NAMED = 3


def or_one(p: float | None) -> float:
    """A p-value, or 1 for a comparison without trials."""
    return 1.0 if p is None else p


def overall_rows(claim: Claim, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The claim in all scenarios of the paper that were run, and in all others: a scaled-down run is never the former.

    All must support it (an intersection-union test: no correction); it is contradicted where one scenario contradicts
    it after Holm's correction for their number.
    """
    scenarios = [row for row in rows if row["role"] == "scenario"]
    for name in ("report", "other"):
        family = [row for row in scenarios if (row["report"] != "-") == (name == "report")]
        if family:
            yield _overall(claim, name, family)


def _overall(claim: Claim, name: str, family: list[dict[str, Any]]) -> dict[str, Any]:
    judged = [row for row in family if row["verdict"] != NOT_JUDGED]
    left_out = _left_out([row for row in family if row["verdict"] == NOT_JUDGED])
    verdict, remark = _verdict(judged, len(family)) if judged else (NOT_JUDGED, "")
    return dict.fromkeys(family[0]) | {
        "claim": claim.number,
        "role": "overall",
        "model": "all of the report's" if name == "report" else "all others",
        "comparison": claim.text,
        "n": min(row["n"] for row in judged or family),
        "test": f"all scenarios, Holm, {LEVEL_TEXT}",
        "verdict": verdict,
        "remark": "; ".join(filter(None, [remark, left_out])),
        "report": claim.papers_verdict if name == "report" else "-",
        "report_source": "",
        "basis": f"its {count_of(len(judged or family), 'scenario')}",
    }


def _verdict(judged: list[dict[str, Any]], scenarios: int) -> tuple[str, str]:
    """Of those that are judged, out of so many scenarios."""
    count = len(judged)
    held, failed = (
        sum(map(significant, evidence.holm([or_one(row[key]) for row in judged])))
        for key in ("p_supported", "p_contradicted")
    )
    if all(row["verdict"] == SUPPORTED for row in judged):
        return SUPPORTED, f"in all {count}" if count == scenarios else f"in {count} of {scenarios}"
    if failed:
        return CONTRADICTED, f"in {failed} of {count} after Holm"
    return UNDECIDED, f"supported in {held} of {count} after Holm"


def _left_out(rows: list[dict[str, Any]]) -> str:
    """The scenarios that no trials can judge, each once, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        names = reasons.setdefault(row["remark"], [])
        name = row["report_source"] or f"{row['model']} on {row['dataset']} {pruning_name(row)}"
        names += [] if name in names else [name]
    return "; ".join(f"{_some(names)} {NOT_JUDGED}: {reason}" for reason, names in reasons.items())


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
