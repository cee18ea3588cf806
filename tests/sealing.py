"""Finished runs made other ones, with every digest that fits: as if they had been made so."""

import json
from hashlib import sha256

from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import RECORD_FILE, SealedRecord


def rewrite(registry: Registry, run: RunRecord, path: str, content: str | bytes | None) -> None:
    """Put other bytes in the place of an artifact, or take it away."""
    run = registry.get(run.run_id)  # with the digest of the manifest as it is now
    data = content.encode() if isinstance(content, str) else content
    local = registry.artifact(run, path)
    manifest_file = registry.artifacts.manifest_file(run)
    manifest = json.loads(manifest_file.read_text())
    if data is None:
        local.unlink()
        del manifest["artifacts"][path]
    else:
        local.write_bytes(data)
        manifest["artifacts"][path] = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    manifest_file.write_text(json.dumps(manifest))
    registry.client.set_tag(run.run_id, tag.MANIFEST, sha256(manifest_file.read_bytes()).hexdigest())


def reseal(registry: Registry, run_id: str, tags: dict[str, str]) -> None:
    """Give a run other tags, in its record too."""
    run = registry.get(run_id)
    record = registry.record(run)
    assert record is not None
    record = SealedRecord.model_validate({"schema": 1, "tags": record.tags | tags, "metrics": record.metrics})
    rewrite(registry, run, RECORD_FILE, record.text())
    for key, value in (tags | {tag.RECORD: record.digest()}).items():
        registry.client.set_tag(run_id, key, value)
