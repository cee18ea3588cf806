"""Where and how stages run: device, machine and policy, which are not part of any spec or fingerprint."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from rewindctl.arithmetic import Arithmetic
from rewindctl.console import Console
from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.durations import Deadline
from rewindctl.errors import UsageError
from rewindctl.models import Network, build_network
from rewindctl.models.build import require_logits
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import require_kind
from rewindctl.registry import Registry, RunRecord
from rewindctl.seeds import derived_seed
from rewindctl.specs import DenseSpec
from rewindctl.training.device import resolve_device
from rewindctl.training.lanes import SharedSteps
from rewindctl.training.step import choose_step

UNTIL_DECIDED = "until_decided"  # a rule: trials go where those before did not decide

Place = Literal["machine", "store"]


@dataclass(frozen=True)
class RunPolicy:
    """`force`: also what the registry has. `checkpoint_seconds`: between two points that an interrupted run goes on
    from. `wait`: for a stage that another process is at, rather than fail. `replay`: make states again that a training
    did not record, rather than fail. `deadline`: when a training keeps such a point and stops, and nothing is waited
    for any more. `collected`: the rule that adds the trials, a tag of their runs. `resume_points`: whether those points
    are on this machine alone, or in the artifact store too. Raises: UsageError for another place.
    """

    force: bool = False
    checkpoint_seconds: float = 60.0
    wait: bool = True
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    replay: bool = True
    deadline: Deadline | None = None
    collected: str = ""
    resume_points: Place = "machine"

    def __post_init__(self) -> None:
        if self.resume_points not in get_args(Place):
            known = ", ".join(get_args(Place))
            raise UsageError(f"unknown place of resume points {self.resume_points!r}", f"known: {known}")


@dataclass
class Pipeline:
    """What stages are run with, on one device.

    The registry is opened when it is first needed, so that a request refused before leaves no store behind; data
    sets are read once. Raises: UsageError for a device that is not there, or that has no such step as is asked for.
    """

    open_registry: Callable[[], Registry]
    console: Console
    device_name: str = "auto"
    data_dir: Path | None = None
    policy: RunPolicy = field(default_factory=RunPolicy)
    shared_steps: SharedSteps | None = None  # where trainings take lanes, in an engine that has such
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _on_device: dict[str, DeviceData] = field(default_factory=dict)
    _reading: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device_name)
        choose_step(self.policy.arithmetic.step, self.device)

    @cached_property
    def registry(self) -> Registry:
        return self.open_registry()

    def require_step(self, root: DenseSpec | RunRecord) -> None:
        """Raises: UsageError where the network of a baseline, or of a run below one, has no such step as asked for."""
        if (asked := self.policy.arithmetic.step) == "fused":
            dense = root if isinstance(root, DenseSpec) else self.dense_of(root)
            choose_step(asked, self.device, self.network(dense))

    def dataset(self, name: str) -> Dataset:
        """The data set, read once. Raises: UnknownNameError, DataError."""
        with self._reading:
            if name not in self._datasets:
                self._datasets[name] = load_dataset(name, self.data_dir)
            return self._datasets[name]

    def data(self, name: str) -> DeviceData:
        """The data set on the device, copied there once. Raises: UnknownNameError, DataError."""
        with self._reading:
            if name not in self._on_device:
                self._on_device[name] = DeviceData.upload(self.dataset(name), self.device)
            return self._on_device[name]

    def data_made(self, name: str, make: Callable[[], DeviceData]) -> DeviceData:
        """Data on the device that is made of a data set, by a name of its own; made once."""
        with self._reading:
            if name not in self._on_device:
                self._on_device[name] = make()
            return self._on_device[name]

    def share_data(self, other: "Pipeline") -> None:
        """Use the data sets that `other`, on the same device, reads and has read, instead of copies of them."""
        self._datasets, self._on_device, self._reading = other._datasets, other._on_device, other._reading

    def network(self, spec: DenseSpec) -> Network:
        """The network of a baseline before its training. Raises: UsageError when the data is not that of the spec."""
        data = self.dataset(spec.dataset)
        if data.digest != spec.data_digest:
            raise UsageError(
                f"data set {spec.dataset!r} is {data.digest[:12]} here, {spec.data_digest[:12]} in the dense run",
                "use the data that the dense run was trained on (--data-dir)",
            )
        config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
        network = build_network(spec.model, config, derived_seed(spec.seed, "init"))
        require_logits(spec.model, network, data.channels, data.image_size, data.classes)
        return network

    def dense_run(self, run: RunRecord) -> RunRecord:
        """The finished dense run at the root of `run`. Raises: UsageError."""
        root = run if run.kind == "dense" else self.registry.root(run)
        require_kind(root, "dense")
        return root

    def dense_of(self, run: RunRecord) -> DenseSpec:
        """The spec of the dense run at the root of `run`. Raises: UsageError, IntegrityError."""
        spec = self.dense_run(run).spec
        assert isinstance(spec, DenseSpec)
        return spec
