"""Runs that travel: out of one registry into a bundle, out of the bundle into another registry."""

from rewindctl.registry.bundle.export import Exported, export_bundle, matching, select
from rewindctl.registry.bundle.merge import Merged, import_bundle

__all__ = ["Exported", "Merged", "export_bundle", "import_bundle", "matching", "select"]
