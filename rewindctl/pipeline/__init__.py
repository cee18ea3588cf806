"""From requests to specs to runs: what is in the registry is found, what is not is run, linked and recorded."""

from rewindctl.pipeline.life import Outcome
from rewindctl.pipeline.pipeline import Pipeline, RunPolicy
from rewindctl.pipeline.stages import run_stage

__all__ = ["Outcome", "Pipeline", "RunPolicy", "run_stage"]
