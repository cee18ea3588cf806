"""The experiment as the MLflow UI shows it."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from rewindctl.registry import Registry, records
from rewindctl.registry.store.connect import connect
from rewindctl.registry.ui import views


def tags_of(registry: Registry) -> dict[str, str]:
    return dict(connect(registry.uri).get_experiment(registry.experiment_id).tags)


@pytest.mark.parametrize("view", [views.RESULTS, views.CURVES, views.METHODS])
def test_a_new_experiment_has_the_views(store: Path, view: str) -> None:
    envelope = json.loads(tags_of(Registry(f"sqlite:///{store}"))[views.VIEW + view])
    assert isinstance(envelope["name"], str)
    state = json.loads(envelope["state"])
    assert set(state["selectedColumns"]) < set(state["columnOrder"])
    sections = {section["uuid"] for section in state.get("compareRunSections", ())}
    assert {chart["metricSectionId"] for chart in state.get("compareRunCharts", ())} == sections


def test_the_tags_of_an_experiment_fit_into_the_store() -> None:
    assert max(map(len, views.experiment_tags().values())) < 5_000  # MLflow's limit before 3.8


def test_an_experiment_made_otherwise_gets_what_it_lacks_and_keeps_what_it_has(store: Path) -> None:
    uri = f"sqlite:///{store}"
    connect(uri).create_experiment("mine", tags={records.NOTE: "my words"})
    registry = Registry(uri, "mine")
    assert views.VIEW + views.RESULTS not in tags_of(registry)
    registry.describe()
    described = tags_of(registry)
    assert set(described) >= set(views.experiment_tags())
    assert described[records.NOTE] == "my words"
    registry.describe()
    assert tags_of(registry) == described


def test_a_link_opens_a_view_among_training_runs() -> None:
    page, query = views.link("7", views.CURVES, charts=True).split("?")
    assert page == "#/experiments/7/runs"
    wanted: dict[str, Any] = {"viewStateShareKey": [views.CURVES], "compareRunsMode": ["CHART"]}
    assert parse_qs(query) == {"workflowType": ["machine_learning"], **wanted}
