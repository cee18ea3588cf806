"""The only importer of mlflow: runs, artifacts with digests, lineage, lookup."""

from rewindctl.registry.inputs import DataInput
from rewindctl.registry.ownership import Watch
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.stored_point import Machine
from rewindctl.registry.writer import RunWriter

__all__ = ["DataInput", "Machine", "Registry", "RunRecord", "RunWriter", "Watch"]
