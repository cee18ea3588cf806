"""How the MLflow UI shows an experiment: its description and its saved views, all of them tags of the experiment.

A saved view is the state of the runs page, as the UI itself keeps it with *Views > Save as new view*.
"""

import json
import time
from typing import Any
from urllib.parse import urlencode

from rewindctl.registry.records import GROUP, KIND, LABEL, METHOD, NOTE, SEED

VIEW = "mlflow.sharedViewState."
RESULTS, CURVES, METHODS = "rewindctl-results", "rewindctl-curves", "rewindctl-methods"
RUN_NAME = "attributes.`Run Name`"
DESCRIPTION = """\
The `+` before a run opens what was made from it: dense baseline → masks (prune) → retrainings. *Views*, at the top
right, has test accuracy by iteration: **curves** (every run) and **methods** (means over seeds), at the chart symbol.

* A run's description says what it is and the command that makes it again.
* `test_accuracy` is a fraction, `delta_accuracy` its difference to the run's own dense baseline.
* `compression` is total / kept kernel weights. *Artifacts* of a prune run has the mask, its table and its plot.
* Medians, tables and figures: `rewindctl compare`.
"""


def experiment_tags() -> dict[str, str]:
    """The tags that a new experiment gets."""
    # Not sorted by time: then the UI shows the runs without the tree, whose closed branches have no curve.
    retrained = {**_charts(), "searchFilter": f"tags.`{KIND}` = 'retrain'", "orderByKey": "metrics.`test_accuracy`"}
    group = [{"mode": "tag", "groupByData": key} for key in (LABEL, GROUP)]
    mean = {"aggregateFunction": "average", "groupByKeys": group}
    return {
        "mlflow.experimentKind": "custom_model_development",  # the UI shows training runs, not chat traces
        NOTE: DESCRIPTION,
        VIEW + RESULTS: _view("1 results: the tree of runs", {"runListHidden": False}),
        VIEW + CURVES: _view("2 curves: every retraining", retrained),
        VIEW + METHODS: _view("3 methods: mean over seeds", {**retrained, "groupBy": mean}),
    }


def link(experiment_id: str, view: str = RESULTS, *, charts: bool = False) -> str:
    """The address of the runs page in a view, from the `#` on."""
    mode = {"compareRunsMode": "CHART"} if charts else {}
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": view, **mode})
    return f"#/experiments/{experiment_id}/runs?{query}"


def _view(name: str, state: dict[str, Any]) -> str:
    columns = [f"metrics.`{key}`" for key in ("test_accuracy", "delta_accuracy", "compression")]
    columns += [f"tags.`{key}`" for key in (METHOD, SEED)]
    columns += ["attributes.`Dataset`", "attributes.`Models`"]
    common = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "searchFilter": "",
        "selectedColumns": columns,
        "columnOrder": [RUN_NAME, *columns],
        "columnWidths": {RUN_NAME: 330, f"tags.`{METHOD}`": 140} | dict.fromkeys(columns[:3], 125),
        "runsHiddenMode": "SHOW_ALL",
    }
    now = int(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(common | state)})


def _charts() -> dict[str, Any]:
    sections = {"accuracy": "Accuracy by iteration", "final": "Results", "training": "Training by iteration"}
    sizes = {"accuracy": {"columns": 1, "cardHeight": 340}}
    lines = {"test_accuracy": "accuracy", "test_loss": "training", "train_loss": "training", "lr": "training"}
    bars = {"delta_accuracy": "final", "duration_seconds": "final"}
    return {
        "compareRunSections": [
            {"uuid": key, "name": name, "display": True, "isReordered": True, **sizes.get(key, {})}
            for key, name in sections.items()
        ],
        "compareRunCharts": [_line(key, section) for key, section in lines.items()]
        + [_chart("BAR", key, section) for key, section in bars.items()],
        "isAccordionReordered": True,
    }


def _chart(kind: str, metric: str, section: str) -> dict[str, Any]:
    return {
        "uuid": f"{section}-{metric}",
        "type": kind,
        "metricKey": metric,
        "metricSectionId": section,
        "runsCountToCompare": 50,
        "deleted": False,
        "isGenerated": False,
    }


def _line(metric: str, section: str) -> dict[str, Any]:
    return _chart("LINE", metric, section) | {
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "selectedXAxisMetricKey": "",
        "yAxisExpressions": [],
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": False,
    }
