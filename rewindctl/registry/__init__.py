"""The only importer of mlflow: runs, artifacts with digests, lineage, lookup."""

from rewindctl.registry.ownership import Watch
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.writer import RunWriter

__all__ = ["Registry", "RunRecord", "RunWriter", "Watch"]
