"""What is to be run: stages, each the child of another. Every command that makes runs makes such a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rewindctl.pipeline.labels import dense_name, retrain_label, stage_label
from rewindctl.registry import RunRecord
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, ReplaySpec, RetrainSpec


@dataclass(frozen=True)
class Stage:
    """A stage of a plan under its key; `parent` is the key of the stage whose run is its parent."""

    key: str
    spec: AnyStage
    parent: str | None = None

    @property
    def iterations(self) -> int:
        """Updates of the network; a mask needs none."""
        if isinstance(self.spec, ReplaySpec):
            return self.spec.iteration - self.spec.from_iteration
        return 0 if isinstance(self.spec, PruneSpec) else self.spec.iterations


@dataclass
class Plan:
    """Stages by key, parents before children.

    `given`: the runs that the request named, with ancestors where they are needed, which are stages too. `asked`: the
    stages whose runs are the answer, in order. `remarks`: what is said before a stage begins.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    given: dict[str, RunRecord] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    remarks: dict[str, str] = field(default_factory=dict)

    def add(self, spec: AnyStage, parent: str | None = None) -> str:
        """The key of a stage, which is added once; it records the rewind points that any of its users needs.

        It is the fingerprint, below a run that was given with the ID of that before it: reruns have equal fingerprints
        and are different parents.
        """
        run = next((above for above in self.lineage(parent) if above in self.given), None) if parent else None
        key = f"{run}/{spec.fingerprint()}" if run else spec.fingerprint()
        known = self.stages.setdefault(key, Stage(key, spec, parent))
        if isinstance(spec, DenseSpec | RetrainSpec) and isinstance(known.spec, DenseSpec | RetrainSpec):
            points = tuple(sorted({*known.spec.rewind_points, *spec.rewind_points}))
            self.stages[key] = replace(known, spec=known.spec.model_copy(update={"rewind_points": points}))
        return key

    def add_runs(self, lineage: Sequence[RunRecord]) -> str:
        """Add runs that are there, each the parent of the next; the key of the last, which is its ID."""
        parent = None
        for run in lineage:
            self.stages.setdefault(run.run_id, Stage(run.run_id, run.spec, parent))
            self.given[run.run_id] = run
            parent = run.run_id
        assert parent is not None
        return parent

    def lineage(self, key: str) -> list[str]:
        """The stage and its ancestors, itself first."""
        chain = [key]
        while (parent := self.stages[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain

    def dense_of(self, stage: Stage) -> DenseSpec:
        """The baseline that a stage descends from."""
        spec = self.stages[self.lineage(stage.key)[-1]].spec
        assert isinstance(spec, DenseSpec)
        return spec

    def label(self, stage: Stage) -> str:
        """The stage in words; in those of the request where that named a run whose ancestors are not in the plan."""
        specs = [self.stages[key].spec for key in reversed(self.lineage(stage.key))]
        known = isinstance(specs[0], DenseSpec) and not isinstance(stage.spec, ReplaySpec)
        return stage_label(specs) if known else self.request_label(stage.key)

    def request_label(self, key: str) -> str:
        """A stage in the words of the request: what tells it from others that were asked for with it."""
        spec, *above = self.lineage(key)
        last = self.stages[spec].spec
        if isinstance(last, DenseSpec):
            return dense_name(last)
        what = retrain_label(last) if isinstance(last, RetrainSpec) else last.kind
        parent = next((self.given[link] for link in above if link in self.given), None)
        return f"{what} of {parent.short}" if parent else what
