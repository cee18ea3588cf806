"""A claim in all of its scenarios together, with the error rate of the whole family."""

from collections.abc import Iterator
from typing import Any

from rewindctl.counting import count_of
from rewindctl.paper.claims import CONTRADICTED, SUPPORTED, UNDECIDED, Claim
from rewindctl.report import evidence

LEVEL_TEXT = f"{100 * evidence.LEVEL / 2:g} % each way"


def or_one(p: float | None) -> float:
    """A p-value, or 1 for a comparison without trials."""
    return 1.0 if p is None else p


def overall_rows(claim: Claim, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The claim in all scenarios of the report that were run, and in all others: a scaled-down run is never the former.

    All must support it (an intersection-union test: no correction); it is contradicted where one scenario contradicts
    it after Holm's correction for their number.
    """
    scenarios = [row for row in rows if row["role"] == "scenario"]
    for name in ("report", "other"):
        family = [row for row in scenarios if (row["report"] != "-") == (name == "report")]
        if family:
            yield _overall(claim, name, family)


def _overall(claim: Claim, name: str, family: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(family)
    held, failed = (
        sum(p <= evidence.LEVEL / 2 for p in evidence.holm([or_one(row[key]) for row in family]))
        for key in ("p_supported", "p_contradicted")
    )
    of = "all of the report's" if name == "report" else "all others"
    if all(row["verdict"] == SUPPORTED for row in family):
        verdict, remark = SUPPORTED, f"in all {count}"
    elif failed:
        verdict, remark = CONTRADICTED, f"in {failed} of {count} after Holm"
    else:
        verdict, remark = UNDECIDED, f"supported in {held} of {count} after Holm"
    return dict.fromkeys(family[0]) | {
        "claim": claim.number,
        "role": "overall",
        "model": of,
        "comparison": claim.text,
        "n": min(row["n"] for row in family),
        "test": f"all scenarios, Holm, {LEVEL_TEXT}",
        "verdict": verdict,
        "remark": remark,
        "report": claim.report if name == "report" else "-",
        "report_source": "",
        "basis": f"its {count_of(count, 'scenario')}",
    }
