"""Specs of any length are whole in any store: around what MLflow cuts, and far beyond."""

from rewindctl.checks.verify import verify
from rewindctl.datasets import load_dataset
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry
from rewindctl.registry.runs.opening import LONGEST_PARAM, params_of
from rewindctl.specs import DenseSpec

# Numbers of points of six digits: a tag is cut at 8,000 characters, a param at 6,000, ours begin anew at 5,000.
EDGES = (857, 858, 1_300, 5_000)


def spec_of(count: int) -> DenseSpec:
    """Of a training with so many rewind points, and as its seed: the points alone make no other experiment."""
    points = range(100_000, 100_000 + count)
    return dense_spec("resnet8", load_dataset("digits"), count, iterations=1_000_000, points=points)


def check(uri: str, experiment: str) -> None:
    """Raises: AssertionError unless each run is found, read and verified as it was asked for."""
    registry = Registry(uri, experiment)
    for count in EDGES:
        spec = spec_of(count)
        writer = registry.start(spec, "a run", None, {})
        writer.seal()
        run = writer.finish()
        found = registry.find(spec.fingerprint())
        assert found is not None
        assert (found.run_id, found.recorded, found.edits) == (run.run_id, spec, ())
        assert found.params == params_of(spec)
        assert max(map(len, found.params.values())) <= LONGEST_PARAM
        wrong = [line for line in verify(registry, found) if "checkpoints/" not in line and "test_accuracy" not in line]
        assert wrong == []
