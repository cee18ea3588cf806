"""A stage from its spec to its finished run: what every kind has in common."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rewindctl.arithmetic import AUTO
from rewindctl.datasets import Dataset
from rewindctl.pipeline import labels
from rewindctl.pipeline.life import Life, Outcome, live
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.registry import DataInput, Machine, OwnerWatch, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, RetrainSpec
from rewindctl.training.device import deciding


class StageRun(ABC):
    """A stage, from its spec to its finished run."""

    def __init__(
        self, pipeline: Pipeline, spec: AnyStage, parent: RunRecord | None, name: str, tags: dict[str, str]
    ) -> None:
        self.pipeline, self.spec, self.parent, self.name, self.tags = pipeline, spec, parent, name, tags
        self.force, self.precision = pipeline.policy.force, pipeline.policy.arithmetic.precision

    def starts_from(self) -> Sequence[str]:
        """The states that it needs, as RUN@ITERATION, that of its weights first. Those not recorded are made again."""
        return ()

    @abstractmethod
    def work(self, spec: Any, writer: RunWriter) -> None:
        """Do the work and record it in the run; `spec` is the one that the run was opened with."""

    def run(self) -> Outcome:
        policy, fingerprint = self.pipeline.policy, self.spec.fingerprint()
        label = labels.label_tag(self.name, self.tags.get(tag.SEED, ""))
        collected = {tag.COLLECTED: policy.collected} if policy.collected else {}
        outcome = live(
            Life(
                fingerprint,
                lambda: self.pipeline.registry.find(fingerprint, self.parent, self.precision),
                self.claim,
                lambda writer: self.work(writer.own_spec(self.spec), writer),
                label | collected,
                forced=self.force,
                wait=policy.wait,
            ),
            self.pipeline,
        )
        run = outcome.run
        if outcome.reused:
            with suppress(OSError):  # left by a process that was killed at the very end; gc finds it too
                resume_file(run.run_id).unlink()
        what = "reused  " if outcome.reused else "finished"
        self.pipeline.console.say(f"{what} {run.short}: test accuracy {run.metric('test_accuracy'):.2%}")
        return outcome

    def claim(self, *, watch: OwnerWatch) -> RunWriter:
        """Open a new run or one to resume, once all states that it starts from exist."""
        pipeline, spec, asked = self.pipeline, self.spec, dict[str, str]()
        if isinstance(spec, DenseSpec):
            pipeline.require_step(spec)
        elif isinstance(spec, RetrainSpec) and self.parent is not None:
            pipeline.require_step(self.parent)
        held = self.starts_from()
        if self.precision != AUTO and not isinstance(spec, PruneSpec):
            asked[tag.PRECISION] = self.precision
        if held:
            asked[tag.WEIGHTS_FROM] = held[0]
        machine = Machine(deciding(pipeline.device), pipeline.console.say)
        how: dict[str, Any] = {"watch": watch, "precision": self.precision, "machine": machine}
        return pipeline.registry.start(spec, self.name, self.parent, self.tags | asked, resume=not self.force, **how)


SHOWN_CLASSES = 20


def data_used(data: Dataset, *contexts: str) -> list[DataInput]:
    """The parts of a data set that a run used: `training`, `testing`."""
    height, width = data.image_size
    columns = {"image": f"uint8 ({height}, {width}, {data.channels})", "label": f"integer, 0 to {data.classes - 1}"}
    return [
        DataInput(
            f"{data.name}-{context}",
            data.digest,
            f"rewindctl data: {data.name}",
            context,
            columns,
            _profile(data, context),
        )
        for context in contexts
    ]


def _profile(data: Dataset, context: str) -> dict[str, Any]:
    labels = data.train_labels if context == "training" else data.test_labels
    counts = Counter(data.class_names[label] for label in labels.tolist())
    sizes = {name: counts[name] for name in data.class_names[:SHOWN_CLASSES]}
    return {"num_rows": len(labels), "classes": data.classes, "images_per_class": sizes}
