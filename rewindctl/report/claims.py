"""The report's claims against trials: an effect, an interval and a verdict for each claim in each scenario.

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

from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.claims import (
    CLAIMS,
    CONTRADICTED,
    STATE_OF_THE_ART,
    SUPPORTED,
    UNDECIDED,
    Claim,
    at_compression,
    report_source,
    state_of_the_art,
)
from rewindctl.report import evidence
from rewindctl.report.cells import SETTINGS
from rewindctl.report.claims_overall import LEVEL_TEXT, or_one, overall_rows
from rewindctl.report.pairing import complete_block, coverage, levels, with_scale
from rewindctl.report.tables import method_name
from rewindctl.safe_text import finite

MARGIN = 0.1
SCENARIO = ["model", "dataset", "iterations", *SETTINGS, "schedule", "step", "dense_group"]
NO_NUMBERS: dict[str, Any] = {
    "n": 0,
    "left_out": 0,
    "levels": 0,
    **dict.fromkeys(
        ("lowest", "highest", "effect", "low", "high", "confidence", "p_supported", "p_contradicted", "smallest_effect")
    ),
}


def verdicts(frame: pd.DataFrame, margin: float = MARGIN, accuracy: str = "final") -> pd.DataFrame:
    """Rows of every claim from the rows of `tidy_frame`, unrounded; `claims_table` makes them readable.

    `role`: `overall` (the claim in all scenarios of the report that were run, or in all others), `scenario`, or
    `part` (one of claim 1's two comparisons). `margin`, `effect`, `low`, `high`, `smallest_effect`: percentage points;
    `smallest_effect` is the distance from `bound` that n trials show with 80 % power, given these trials' deviation.
    `lowest` and `highest` compression of `levels` that are averaged; `left_out` trials lack some of them. `report`: the
    report's verdict, "-" where it has no such scenario or this one is scaled down.
    Raises: UsageError for a wrong margin, RewindError where no two methods can be compared.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin {margin} is not a number of percentage points", "give 0 or more, such as 0.1")
    suffix = "" if accuracy == "final" else "_best"
    trials = frame[frame["method"] != "none"].assign(
        accuracy=lambda rows: 100 * rows[f"test_accuracy{suffix}"],
        delta=lambda rows: 100 * (rows[f"test_accuracy{suffix}"] - rows[f"dense_accuracy{suffix}"]),
    )
    trials = with_scale(trials).sort_values([*SCENARIO, "label", "sparsity_asked"])
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
    by_method = {method: sorted(set(rows["label"])) for method, rows in trials.groupby("method")}
    others = [(method, label) for method in claim.against for label in by_method.get(method, [])]
    for label in by_method.get(claim.method, []):
        if not claim.against:
            yield _published(claim, trials, label, margin)
            continue
        parts = {
            (method, other): _paired(claim, trials, (claim.method, label), (method, other), margin)
            for method, other in others
        }
        if len(claim.against) == 1:
            yield from parts.values()
        elif parts:
            yield from _in_both(claim, parts)


def _in_both(claim: Claim, parts: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each choice of one setting of both methods, then the comparisons that they rest on."""
    first, second = ([row for (method, _), row in parts.items() if method == wanted] for wanted in claim.against)
    for one, other in zip_longest(first, second) if not (first and second) else product(first, second):
        yield _both(claim, one, other)
    for row in parts.values():
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


def _paired(
    claim: Claim, trials: pd.DataFrame, method: tuple[str, str], other: tuple[str, str], margin: float
) -> dict[str, Any]:
    """One method against another on the same dense runs."""
    both = levels(trials, method[1], "accuracy") - levels(trials, other[1], "accuracy")
    block = complete_block(both)
    row = _row(claim, trials, (method[1], other[1]), margin) | {
        "comparison": f"{method_name(*method)} - {method_name(*other)}",
        "test": f"sign flips, {LEVEL_TEXT}",
        "basis": "the same dense runs",
    }
    if block.empty:
        return row | {"remark": "no dense run has both"}
    effects = block.mean(axis=1).to_numpy()
    row |= coverage(both, block) | _numbers(evidence.typical_values(effects), effects, float(effects.mean()), row)
    deviation = _deviation(effects)
    row["smallest_effect"] = finite(evidence.standard_effect(len(effects)) * deviation)
    distance = abs(row["effect"] - row["bound"])
    needed = evidence.needed_paired(distance, deviation) if len(effects) > 1 else None
    return row | _decision(row, _need(needed, len(effects), evidence.FEWEST_PAIRED))


def _published(claim: Claim, trials: pd.DataFrame, label: str, margin: float) -> dict[str, Any]:
    """Our differences from our own dense runs against Renda et al.'s from theirs, at the compressions of both.

    Their trials are known level by level only: the smallest of each level are taken as one trial, the middle ones as
    another, the largest as the third. That is the widest that their averages can lie apart.
    """
    row = _row(claim, trials, (label,), margin) | {
        "comparison": f"{method_name('lr_rewind', label)} - published LR rewinding",
        "test": f"exchange with 3 published trials, {LEVEL_TEXT}",
        "basis": STATE_OF_THE_ART,
    }
    published = state_of_the_art(trials.iloc[0])
    grid = levels(trials, label, "delta")
    found = {float(s): at_compression(published, 1 / (1 - float(s))) for s in grid.columns.to_numpy()}
    matched = {sparsity: level for sparsity, level in found.items() if level is not None}
    block = complete_block(grid[list(matched)])
    if block.empty:
        return row | {"n": len(grid), "remark": "nothing to compare with", "basis": "no published numbers"}
    theirs = (
        pd.DataFrame([matched[float(s)] for s in block.columns.to_numpy()])[["low", "middle", "high"]].mean().to_numpy()
    )
    ours = block.mean(axis=1).to_numpy()
    values = evidence.exchange_values(ours, theirs)
    row |= coverage(grid[list(block)], block) | _numbers(values, ours, float(ours.mean() - theirs.mean()), row)
    deviation = _deviation(ours)
    needed = None
    if len(ours) > 1:
        row["smallest_effect"] = finite(evidence.smallest_against(len(ours), deviation, theirs))
        needed = evidence.needed_against(abs(row["effect"] - row["bound"]), deviation, theirs)
    too_close = "too close for 3 published trials"
    return row | _decision(row, _need(needed, len(ours), evidence.FEWEST_AGAINST, too_close))


def _row(claim: Claim, trials: pd.DataFrame, labels: tuple[str, ...], margin: float) -> dict[str, Any]:
    """What a comparison is of, before it has numbers."""
    scenario = trials.iloc[0]
    source = report_source(scenario, labels)
    report = claim.report_verdict(source) or "-"
    return {
        "claim": claim.number,
        "role": "scenario",
        **{key: scenario[key] for key in ("model", "dataset", "iterations", "scale", *SETTINGS, "schedule", "step")},
        "comparison": "",
        **NO_NUMBERS,
        "bound": 0.0 if claim.direction == "worse" else -margin,
        "direction": claim.direction,
        "test": "",
        "verdict": UNDECIDED,
        "remark": "",
        "report": report,
        "report_source": source if report != "-" else "",
        "basis": "",
    }


def _numbers(values: evidence.Array, effects: evidence.Array, effect: float, row: dict[str, Any]) -> dict[str, Any]:
    """Effect, interval (none from one trial) and both p-values."""
    low, high, confidence = evidence.interval(values) if len(effects) > 1 else (None, None, None)
    above, below = evidence.p_above(values, row["bound"]), evidence.p_below(values, row["bound"])
    supports, contradicts = (below, above) if row["direction"] == "worse" else (above, below)
    return {
        "effect": effect,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "confidence": confidence,
        "p_supported": float(supports),
        "p_contradicted": float(contradicts),
    }


def _decision(row: dict[str, Any], need: str) -> dict[str, str]:
    if or_one(row["p_supported"]) <= evidence.LEVEL / 2:
        return {"verdict": SUPPORTED, "remark": ""}
    if or_one(row["p_contradicted"]) <= evidence.LEVEL / 2:
        return {"verdict": CONTRADICTED, "remark": ""}
    return {"verdict": UNDECIDED, "remark": need}


def _need(needed: float | None, n: int, fewest: int, never: str = "") -> str:
    """How many trials would decide; one trial has no deviation to tell from, but the test has its least number."""
    if needed is None:
        return f"needs at least {fewest} trials"
    if math.isinf(needed):
        return never or f"needs over {evidence.MOST_TRIALS:,} trials"
    return f"needs about {max(int(needed), n + 1)} trials"


def _deviation(effects: evidence.Array) -> float:
    return float(effects.std(ddof=1)) if len(effects) > 1 else math.nan
