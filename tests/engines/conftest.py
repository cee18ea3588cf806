"""The Ray cluster of a module of tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from two_nodes import Cluster, serving, two_nodes


@pytest.fixture(scope="module")
def cluster(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        host = ray.util.get_node_ip_address()
        with serving(empty_store, tmp_path_factory.mktemp("server"), host) as uri:
            patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
            with two_nodes(uri, os.environ["XDG_STATE_HOME"]) as nodes:
                yield nodes


@pytest.fixture
def state(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume points are where the cluster's workers keep them."""
    monkeypatch.setenv("XDG_STATE_HOME", cluster.state)
