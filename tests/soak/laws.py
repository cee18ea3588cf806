"""What a store came to, in a form that two stores of the same commands have in common; what must never be in one."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rewindctl.checks.verify import verify
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag

# What differs from one time to another, or names runs: numbers of trials, IDs, durations, the machine.
TIMED = ("duration_seconds", "iterations_per_second", "system/")
NAMING = {"environment.json", "best.json", "trials.csv", "record.json", "manifest.json"}
IN_TABLE = ("state", "validation_accuracy", "last_step", "lr")
IN_BEST = ("method", "trials", "holdout")


def state_of(uri: str, into: Path) -> int:
    """Write what the store holds to `into`: `results` of finished runs, and `broken`, a line for each broken law."""
    registry = Registry(uri)
    runs = {run.run_id: run for run in registry.search()}
    finished = [run for run in runs.values() if run.finished]
    keys = {run.run_id: _key(run, runs) for run in runs.values()}
    results = {keys[run.run_id]: _result(registry, run) for run in finished}
    broken = [f"{keys[run.run_id]} {line}" for run in finished for line in verify(registry, run)]
    doubled = Counter(keys[run.run_id] for run in finished if run.kind != tag.REPORT)
    broken += [f"{key} is finished {count} times" for key, count in doubled.items() if count > 1]
    broken += [f"{keys[run.run_id]} is {run.status}" for run in runs.values() if run.status in ("RUNNING", "SCHEDULED")]
    broken += [f"{keys[run.run_id]} has {path} beside its artifacts" for run in finished for path in _hidden(run)]
    broken += _models(registry, runs, keys)
    into.write_text(json.dumps({"results": results, "broken": broken}, sort_keys=True))
    return 0


def _key(run: RunRecord, runs: dict[str, RunRecord]) -> str:
    """The chain of stages that a run ends: kind and fingerprint of each."""
    parent = runs.get(run.parent_id or "")
    own = f"{run.kind} {run.fingerprint[:12]}"
    return f"{_key(parent, runs)} > {own}" if parent else own


def _result(registry: Registry, run: RunRecord) -> dict[str, Any]:
    manifest = registry.manifest(run)
    named = run.kind in (tag.REPORT, "tune")
    bytes_ = {path: "" if named or path in NAMING else entry["sha256"] for path, entry in manifest.items()}
    result = {
        "params": run.params,
        "artifacts": {path: digest for path, digest in bytes_.items() if path != "plots/importance.png"},
        "histories": {key: _history(registry, run, key) for key in sorted(run.metrics) if not key.startswith(TIMED)},
        "timed": sorted(key for key in run.metrics if key.startswith(TIMED[:2])),
    }
    if run.kind == "tune":
        best = registry.artifacts.read_json(run, "best.json")
        result["best"] = {key: best[key] for key in IN_BEST} | {"params": best["best"]["params"]}
        result["comparison"] = best["comparison"]["best"], best["comparison"]["reference"]
        with registry.artifact(run, "trials.csv").open() as file:
            result["trials"] = [{key: row[key] for key in IN_TABLE} for row in csv.DictReader(file)]
    return result


def _history(registry: Registry, run: RunRecord, key: str) -> list[tuple[int, float]]:
    """Every value with its step: a gap or a double shows beside an unbroken run's."""
    return sorted((step, value) for step, _, value in registry.shown_history(run, key))


def _hidden(run: RunRecord) -> list[str]:
    """Half uploads, which MLflow does not list."""
    return [path.name for path in Path(urlsplit(run.artifact_uri).path).rglob(".*")]


def _models(registry: Registry, runs: dict[str, RunRecord], keys: dict[str, str]) -> list[str]:
    """Each finished dense run is a version of its model, and is so once; no version is of a run that never finished."""
    client = registry.client
    versions = Counter(version.run_id for version in client.search_model_versions())
    wanted = {run.run_id for run in runs.values() if run.finished and run.kind == "dense"}
    broken = [f"{keys[run_id]} has {versions[run_id]} model versions" for run_id in wanted if versions[run_id] != 1]
    broken += [f"a model version is of run {run_id}, not finished" for run_id in set(versions) - wanted]
    made = Counter(
        model.source_run_id for model in client.search_logged_models([registry.experiment_id], max_results=500)
    )
    broken += [
        f"{keys[run.run_id]} made {made[run.run_id]} networks"
        for run in runs.values()
        if run.finished and made[run.run_id] != (run.kind in ("dense", "retrain")) and run.tags.get(tag.IMPORT) is None
    ]
    return broken


def differences(found: dict[str, Any], wanted: dict[str, Any], where: str = "") -> list[str]:
    """A line for each place where two results differ."""
    lines: list[str] = []
    for key in sorted(set(found) | set(wanted)):
        here = f"{where}/{key}"
        if key not in found or key not in wanted:
            lines.append(f"{here}: {'missing' if key in wanted else 'too much'}")
        elif isinstance(found[key], dict) and isinstance(wanted[key], dict):
            lines += differences(found[key], wanted[key], here)
        elif found[key] != wanted[key]:
            lines.append(f"{here}: {found[key]!r:.120} instead of {wanted[key]!r:.120}")
    return lines
