"""A run as a plain object: what it is, its numbers, its mask, its network, its relatives."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rewindctl.errors import UsageError
from rewindctl.pipeline.networks import load_mask, load_network
from rewindctl.registry import Registry, RunRecord
from rewindctl.report.runs import spec_order
from rewindctl.specs import AnyStage

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Run:
    """A run of the registry as it was when it was read."""

    record: RunRecord
    registry: Registry

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def kind(self) -> str:
        """`dense`, `prune` or `retrain`."""
        return self.record.kind

    @property
    def status(self) -> str:
        """`FINISHED`, `RUNNING`, `FAILED` or `KILLED`."""
        return self.record.status

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings that decide the result; equal for equal experiments."""
        return self.record.fingerprint

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric; accuracies are fractions."""
        return dict(self.record.metrics)

    @property
    def params(self) -> dict[str, str]:
        """Every field of the spec, as text."""
        return dict(self.record.params)

    @property
    def spec(self) -> AnyStage:
        """The frozen spec. Raises: IntegrityError when it does not match the fingerprint."""
        return self.record.spec

    @property
    def parent(self) -> "Run | None":
        """The run that this one was made from; None for a dense run. Raises: RegistryError when it is gone."""
        return Run(self.registry.parent(self.record), self.registry) if self.record.parent_id else None

    @property
    def children(self) -> "list[Run]":
        """The runs made from this one up to now, in the order of their specs."""
        children = sorted(self.registry.children(self.record), key=spec_order)
        return [Run(child, self.registry) for child in children]

    def mask(self) -> "dict[str, Tensor]":
        """The mask in force, bool by parameter name, True where a weight is kept; empty for a dense run.

        Raises: RegistryError, IntegrityError.
        """
        mask = load_mask(self.registry, self.record)
        return {} if mask is None else mask.tensors()

    def model(self) -> "nn.Module":
        """The network that the run ended with, its mask applied, on the CPU, in evaluation mode.

        Images: (batch, channels, height, width) float32, standardised as in training: (x / 255 - mean) / std of the
        data set's training images. Raises: RegistryError, IntegrityError.
        """
        return load_network(self.registry, self.record)

    def history(self, metric: str = "test_accuracy") -> "pd.DataFrame":
        """A row per value: `iteration` and the metric. Raises: UsageError for a metric that the run lacks."""
        import pandas as pd

        if metric not in self.record.metrics:
            raise UsageError(
                f"run {self.run_id} has no metric {metric!r}", f"known: {', '.join(sorted(self.record.metrics))}"
            )
        points = sorted({step: value for step, _, value in self.registry.history(self.record, metric)}.items())
        return pd.DataFrame(points, columns=["iteration", metric])

    def files(self) -> dict[str, int]:
        """Size of each artifact in bytes by path, from the manifest. Raises: IntegrityError."""
        return {path: int(entry["size"]) for path, entry in sorted(self.registry.manifest(self.record).items())}

    def file(self, path: str) -> Path:
        """A local copy of an artifact, checked against the manifest. Raises: RegistryError, IntegrityError."""
        return self.registry.artifact(self.record, path)

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.name!r}, {self.status})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)
