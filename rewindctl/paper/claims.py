"""The paper's three claims as data: what is compared, in which direction, and the paper's own verdicts.

Source: the paper, section 6 (paper.md: claims 2 and 3 are "supported by figures 1-4 and table 5, contradicted by figure
5"; claim 1 is what the same figures show at every compression, figure 5 having no fine-tuning).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from rewindctl.paper.reference import at_end, is_in_paper, renda_points, usual

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "not decided"
NOT_JUDGED = "cannot be judged"  # by any number of trials


@dataclass(frozen=True)
class Claim:
    """`method` against each of `against`: `worse`, or `as_good` (not worse by more than a margin).

    No `against`: the published numbers of Renda et al. `papers_verdict`: the paper's on the whole; `supported`,
    `contradicted`: by which of its figures and tables.
    """

    number: int
    text: str
    method: str
    against: tuple[str, ...]
    direction: Literal["worse", "as_good"]
    schedules: tuple[str, ...]
    papers_verdict: str
    supported: tuple[str, ...]
    contradicted: tuple[str, ...] = ()

    def papers_verdict_in(self, source: str) -> str:
        """What the paper says of the claim in one of its figures or tables; "" where it does not speak of it."""
        return SUPPORTED if source in self.supported else CONTRADICTED if source in self.contradicted else ""


FIGURES = ("figure 1", "figure 2", "figure 3", "figure 4", "table 5")
BOTH = ("one_shot", "iterative")
IN_FAVOUR = "supported (figures 1-4, table 5)"
ON_BALANCE = f"{IN_FAVOUR}, contradicted (figure 5)"

CLAIMS = (
    Claim(
        1,
        "fine-tuning is worse than weight rewinding and than LR rewinding",
        "finetune",
        ("weight_rewind", "lr_rewind"),
        "worse",
        BOTH,
        IN_FAVOUR,
        FIGURES,
    ),
    Claim(
        2,
        "LR rewinding is as good as or better than weight rewinding",
        "lr_rewind",
        ("weight_rewind",),
        "as_good",
        BOTH,
        ON_BALANCE,
        FIGURES,
        ("figure 5",),
    ),
    Claim(
        3,
        "iterative LR rewinding matches the state of the art",
        "lr_rewind",
        (),
        "as_good",
        ("iterative",),
        ON_BALANCE,
        FIGURES,
        ("figure 5",),
    ),
)

# Source: the paper, section 5: network, data, structure, schedule, step; all of global magnitude pruning, norms kept.
SOURCES = {
    ("resnet20", "cifar10", "unstructured", "one_shot", None): "figure 1",
    ("resnet20", "cifar10", "unstructured", "iterative", 0.2): "figure 1",
    ("resnet56", "cifar10", "unstructured", "one_shot", None): "figure 2",
    ("resnet56", "cifar10", "unstructured", "iterative", 0.2): "figure 2",
    ("resnet20", "cifar10", "structured", "one_shot", None): "figure 3",
    ("resnet56", "cifar100", "unstructured", "one_shot", None): "figure 4",
    ("wrn16_8", "cifar10", "unstructured", "one_shot", None): "figure 5",
    ("wrn16_8", "cifar10", "unstructured", "iterative", 0.3): "figure 5",
    ("resnet110", "cifar10", "unstructured", "one_shot", None): "table 5",
}


def paper_source(scenario: "pd.Series[Any]", labels: tuple[str, ...]) -> str:
    """The figure or table of the paper that shows a scenario of full length (`scale` 1); "" where none does."""
    if scenario["scale"] != 1 or not all(is_in_paper(scenario, label) for label in labels):
        return ""
    step = None if pd.isna(scenario["step"]) else scenario["step"]
    keys = (scenario["model"], scenario["dataset"], scenario["structure"], scenario["schedule"], step)
    return SOURCES.get(keys, "")


STATE_OF_THE_ART = (
    "Renda et al. 2020, iterative LR rewinding: min, median, max of 3 trials, minus mean dense (renda_summary.csv)"
)
RENDA_STEP = 0.2
SAME_COMPRESSION = 0.01  # of it: 9.35x (89.3 %) is their 9.31x (0.8^10); the next level is 25 % away


def state_of_the_art(scenario: "pd.Series[Any]") -> pd.DataFrame:
    """Renda et al.'s iterative LR rewinding for a scenario, a row per level; empty where they have no such numbers.

    Columns `compression`, `low`, `middle`, `high`: their three trials, in points against the mean of their dense runs.
    Their LR rewinding, not the best of their methods: the largest of several medians is too large by its noise. Where
    their validation left two lengths of retraining equal, the longer one, ours retraining in full. Their numbers are
    of full-length training: a scaled-down scenario has none.
    """
    points = renda_points()
    theirs = (
        (points["network"] == scenario["model"])
        & (points["dataset"] == scenario["dataset"])
        & (points["schedule"] == scenario["schedule"])
        & (points["method"] == "lr_rewind")
    )
    alike = usual(scenario, "lr_rewind") and at_end(scenario) and scenario["structure"] == "unstructured"
    if not alike or scenario["step"] != RENDA_STEP or scenario["scale"] != 1:
        theirs &= False
    chosen = points[theirs].sort_values("retrain_epochs").drop_duplicates("compression", keep="last")
    names = {"low": "min", "middle": "median", "high": "max"}
    deltas = {name: chosen[f"test_acc_{part}_pct"] - chosen["base_test_acc_mean_pct"] for name, part in names.items()}
    return pd.DataFrame({"compression": chosen["compression"], **deltas}).sort_values("compression")


def at_compression(levels: pd.DataFrame, compression: float) -> "pd.Series[Any] | None":
    """The level of `state_of_the_art` at a compression, within 1 % of it."""
    near = levels[[math.isclose(value, compression, rel_tol=SAME_COMPRESSION) for value in levels["compression"]]]
    return near.iloc[0] if len(near) else None
