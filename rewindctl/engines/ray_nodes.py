"""The machines of a Ray cluster: how many stages they can run, whether they reach the store, whether they are ready."""

import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rewindctl import __version__
from rewindctl.engines.ray_start import last_line
from rewindctl.engines.ray_worker import NodeCheck, TaskContext, look
from rewindctl.errors import RewindError, UsageError
from rewindctl.system.safe_text import redacted

LOOK_SECONDS = 300.0  # the first import of torch over a network file system, and a data set to be fetched
LOOPBACK = ("localhost", "127.", "::1", "0.0.0.0")


@dataclass(frozen=True)
class RayNode:
    """A machine, or a part of one, that is alive."""

    id: str
    address: str
    host: str
    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """How many stages with these resources can run in parallel; a stage's fraction of a GPU lies on one GPU."""
        counts = [self.cpus / cpus] if cpus else []
        if gpus:
            counts.append(self.gpus / gpus if gpus >= 1 else self.gpus * math.floor(1 / gpus + 1e-9))
        return math.floor(min(counts, default=1) + 1e-9)


def alive(ray: Any) -> list[RayNode]:
    return [
        RayNode(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerHostname"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_store(nodes: list[RayNode], uri: str) -> None:
    """Check that all machines can reach the store. Raises: UsageError for a local store or address."""
    addresses = sorted({node.address for node in nodes})
    elsewhere = [node.host for node in nodes if node.host != socket.gethostname()]
    if len(addresses) < 2 and not elsewhere:
        return
    where = f"{len(addresses)} machines ({', '.join(addresses[:4])})" if len(addresses) > 1 else f"on {elsewhere[0]}"
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise UsageError(
            f"the Ray cluster is {where}: the tracking store {redacted(uri)} is a file on this machine",
            "start an MLflow server that all of them reach, and give --tracking-uri http://HOST:PORT",
        )
    if (parts.hostname or "").startswith(LOOPBACK):
        raise UsageError(
            f"the Ray cluster is {where}: on each of them {redacted(uri)} means that machine itself",
            "give the address that the others reach the server at: --tracking-uri http://HOST:PORT",
        )


def check_resources(nodes: list[RayNode], cpus: float, gpus: float) -> None:
    """Check that some node is large enough for a stage. Raises: UsageError otherwise."""
    if any(node.holds(cpus, gpus) for node in nodes):
        return
    if gpus and not any(node.gpus for node in nodes):
        raise UsageError(f"--gpus {gpus:g}: the Ray cluster has no GPU", "run with --gpus 0 or another --address")
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus) if gpus else (node.cpus, node.gpus))
    asked = f"--cpus {cpus:g}" + (f" --gpus {gpus:g}" if gpus else "")
    raise UsageError(
        f"{asked}: no node of the Ray cluster is that large; the largest has {largest.cpus:g} CPUs"
        + (f" and {largest.gpus:g} GPUs" if gpus else ""),
        "ask for less per stage",
    )


def check_nodes(
    ray: Any, nodes: list[RayNode], post: TaskContext, data: Mapping[str, str], runtime: dict[str, Any]
) -> None:
    """Check that each node has this version, the store and the data. Raises: RewindError naming the node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0, **runtime)(look)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked[task.options(scheduling_strategy=there).remote(post, dict(data))] = node
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
    for answer in answered:
        _check_answer(ray, asked[answer], answer)
    if silent:
        raise RewindError(
            f"node {asked[silent[0]].address} of the Ray cluster did not answer within {LOOK_SECONDS:.0f} s",
            "check whether it is overloaded: ray status",
        )


def _check_answer(ray: Any, node: RayNode, answer: Any) -> None:
    where = f"node {node.address} of the Ray cluster"
    try:
        seen = ray.get(answer)
    except Exception as error:
        raise RewindError(
            f"{where} cannot run rewindctl {__version__}: {last_line(error)}", "install the same version on every node"
        ) from None
    assert isinstance(seen, NodeCheck)
    if seen.version != __version__:
        raise RewindError(
            f"{where} has rewindctl {seen.version}, this is {__version__}", "install the same version on every node"
        )
    if seen.message:
        raise RewindError(f"{where}: {seen.message}", seen.hint)
