"""What is to be run: stages, each the child of another. Every command that makes runs makes such a plan."""

from dataclasses import dataclass, field, replace

from rewindctl.pipeline.labels import stage_label
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
    """Stages by key, parents before children."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, spec: AnyStage, parent: str | None = None) -> str:
        """The key of a stage, which is added once: its fingerprint. It records the points that any user of it needs."""
        key = spec.fingerprint()
        known = self.stages.setdefault(key, Stage(key, spec, parent))
        if isinstance(spec, DenseSpec | RetrainSpec) and isinstance(known.spec, DenseSpec | RetrainSpec):
            points = tuple(sorted({*known.spec.rewind_points, *spec.rewind_points}))
            self.stages[key] = replace(known, spec=known.spec.model_copy(update={"rewind_points": points}))
        return key

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
        """The stage in words."""
        return stage_label([self.stages[key].spec for key in reversed(self.lineage(stage.key))])
