"""A claim in all of its scenarios together, with the error rate of the whole family."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rewindctl.counting import count_of
from rewindctl.paper.claims import CONTRADICTED, NOT_JUDGED, SUPPORTED, UNDECIDED, Claim
from rewindctl.paper.plan import pruning_name
from rewindctl.report import evidence
from rewindctl.report.contrast import LEVEL_TEXT, significant

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
        name = row["report_source"] or f"{row['model']} on {row['dataset']} {pruning_name(pd.Series(row))}"
        names += [] if name in names else [name]
    return "; ".join(f"{_some(names)} {NOT_JUDGED}: {reason}" for reason, names in reasons.items())


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
