"""From requests to specs to runs: what is in the registry is found, what is not is run, linked and recorded."""

from rewindctl.pipeline.policy import RunPolicy
from rewindctl.pipeline.stages import Outcome, Pipeline

__all__ = ["Outcome", "Pipeline", "RunPolicy"]
