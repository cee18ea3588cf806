"""The only importer of mlflow: runs, artifacts with digests, lineage, lookup."""

from rewindctl.registry.claiming.ownership import OwnerWatch
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.inputs import DataInput
from rewindctl.registry.runs.stored_point import Machine
from rewindctl.registry.runs.writer import RunWriter

__all__ = ["DataInput", "Machine", "OwnerWatch", "Registry", "RunRecord", "RunWriter"]
