"""What was published: the paper's figures and tables, Renda et al.'s medians, and which cells are the paper's own.

The claims and the numbers beside ours share one definition of the paper's own cells. The paper's text names neither K
nor, for WRN-16-8, the iteration whose weights are pruned, and it contradicts its code about the clock. Where text and
code differ, both readings are the paper's. Source: the paper, figures 1-6 (digitised from the vector drawing), tables
1-5, sections 3 to 5, and its authors' published configuration; Renda et al. 2020, summary data.
"""

import json
import math
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rewindctl.training.recipes import default_recipe

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = files("rewindctl.paper") / "published"
DEVICE_OF_PAPER = "RTX 3080, TensorFlow 2.4.2"
PAPER_K = 8_000  # of the authors' configuration; the text names none
AUTHORS_PRUNED_AT = {"wrn16_8": 72_000}  # likewise, of 80,000; the text prunes the trained network
USUAL = {"scope": "global", "criterion": "magnitude", "channel_norm": "keep", "exclude": ""}
# Whatever the label of a retraining names besides (restored momentum, another rate or length) is not usual.
LABEL = re.compile(r"none|finetune|lr_rewind|weight_rewind k=(?P<k>\d+)( restarted clock)?")


@cache
def paper_points() -> "pd.DataFrame":
    """The 272 points of the paper's figures, baselines included, a row each.

    `accuracy_pct` is the absolute median in percent, `delta_true_pp` and `ci80_{low,high}_true_pp` percentage points
    against the baseline (10th and 90th percentiles of the trials), `delta_accuracy_pp` and `ci80_{low,high}_pp` the
    readings of the figures' axis, which is relative: 100 * (median / baseline - 1). Not to be changed in place.
    """
    return _csv("paper_figures.csv")


@cache
def paper_tables() -> dict[str, Any]:
    """The paper's tables 1 to 5 (`table_1`, ...), its hyper-parameters and its cost. Not to be changed in place."""
    tables: dict[str, Any] = json.loads((_FOLDER / "paper_tables.json").read_text())
    return tables


@cache
def renda_points() -> "pd.DataFrame":
    """Renda et al.'s medians of 3 trials, unstructured, ResNet-20/56/110 on CIFAR-10, a row per cell.

    `test_acc_{median,min,max}_pct` on their 8,000 test images; `delta_median_vs_base_mean_pp` is plain percentage
    points against the mean of their dense runs. Not to be changed in place.
    """
    return _csv("renda_summary.csv")


def _csv(name: str) -> "pd.DataFrame":
    import pandas as pd

    with (_FOLDER / name).open("r", encoding="utf-8") as file:
        return pd.read_csv(file)


def usual(cell: "pd.Series[Any] | dict[str, Any]", label: str) -> bool:
    """Whether a cell has the settings that both papers share, whatever its length, its K and its `pruned_at`.

    Global magnitude pruning that keeps the norms, the recipe of the network, momentum from zero and as in the dense
    run. A dense cell (label `none`) has no pruning. A recipe that an older file does not name is taken for the usual.
    """
    pruning = label == "none" or all(cell[key] == value for key, value in USUAL.items())
    recipe, own = cell.get("recipe"), default_recipe(str(cell["model"]), str(cell["dataset"]))
    return pruning and (not isinstance(recipe, str) or recipe in ("", own)) and LABEL.fullmatch(label) is not None


def is_in_paper(cell: "pd.Series[Any] | dict[str, Any]", label: str) -> bool:
    """Whether a cell is the paper's, or what it is at another length: `usual`, its K, and what it prunes.

    K is 8,000 under either clock. The weights that are pruned are those of the end or, where the authors' configuration
    has it so, those of 72,000. In a scaled run both are scaled; a caller that wants full length asks for `scale` 1.
    """
    found = LABEL.fullmatch(label)
    if found is None or not usual(cell, label):
        return False
    authors = AUTHORS_PRUNED_AT.get(str(cell["model"]), math.inf)
    of_end = at_end(cell) or _same(float(cell["pruned_at"]), authors, cell)
    return of_end and (found["k"] is None or _same(int(found["k"]), PAPER_K, cell))


def at_end(cell: "pd.Series[Any] | dict[str, Any]") -> bool:
    """Whether the weights that are pruned are those of the last iteration of the dense run."""
    at = cell.get("pruned_at")
    return at is None or math.isnan(at)


def _same(iteration: float, wanted: float, cell: "pd.Series[Any] | dict[str, Any]") -> bool:
    """Equal at full length; a scaled run's length and its K are rounded each by itself."""
    return abs(iteration - wanted * float(cell["scale"])) < 1
