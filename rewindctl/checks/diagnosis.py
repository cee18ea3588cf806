"""What there is to work with on this machine, and what would be chosen: for `rewindctl doctor`."""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rewindctl.catalog import listed
from rewindctl.checks.steps import step_text
from rewindctl.counting import count_of
from rewindctl.datasets.files import places
from rewindctl.datasets.inventory import inventory
from rewindctl.errors import RewindError
from rewindctl.registry.delivery.recovery import kept
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import absolute_uri, sqlite_path
from rewindctl.registry.store.connect import connect
from rewindctl.system.safe_text import redacted
from rewindctl.training.device import environment, resolve_device
from rewindctl.training.precision import missing_unit

LITTLE_DISK = 5e9


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `advice` is there where something should be done, `wrong` where nothing works so."""

    topic: str
    text: str
    advice: str = ""
    wrong: bool = False


def diagnosis(
    device: str, tracking_uri: str | None, data_dir: Path | None, parallel: Callable[[str], str]
) -> list[Finding]:
    """Versions, device, store, data, disk; nothing is made or changed. `parallel`: how stages at once run on a device.

    That is the engines' to say, of a device that is there.
    """
    here = _device(device)
    if not any(finding.wrong for finding in here):
        here.append(Finding("at once", parallel(device)))
    return [*_software(), *here, _store(tracking_uri), *_data(data_dir), _disk(), _resume_points(), _kept()]


def _software() -> list[Finding]:
    packages = environment(torch.device("cpu"))["packages"]
    text = ", ".join(f"{name} {version}" for name, version in packages.items())
    return [Finding("python", f"{platform.python_version()} on {platform.platform()}"), Finding("packages", text)]


def _device(asked: str) -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = Finding("threads", f"{torch.get_num_threads()} of {cores} cores")
    try:
        device = resolve_device(asked)
    except RewindError as error:
        return [Finding("device", error.message, error.hint, wrong=True), threads]
    name = environment(device)["device"]
    missing = missing_unit(device)
    bf16 = Finding("precision", f"fp32: {missing}" if missing else "bf16 for networks large enough to gain, else fp32")
    how = [bf16, *_steps(device, asked), threads]
    if device.type == "cuda":
        return [Finding("device", f"{device} ({name}), {torch.cuda.device_count()} here"), *how]
    why = "asked for" if asked.startswith("cpu") else _why_no_gpu()
    return [Finding("device", f"cpu ({name}): {why}"), *how]


def _steps(device: torch.device, asked: str) -> list[Finding]:
    """Of the device chosen; of every GPU where stages would use them in turn."""
    count = torch.cuda.device_count() if device.type == "cuda" and asked in ("auto", "cuda") else 1
    if count == 1:
        return [Finding("step", step_text(device))]
    return [Finding(f"step cuda:{index}", step_text(torch.device("cuda", index))) for index in range(count)]


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "no CUDA device is there" if not torch.cuda.is_available() else "chosen"


def _store(tracking_uri: str | None) -> Finding:
    try:
        uri = absolute_uri(tracking_uri)
        path = sqlite_path(uri)
        if path is not None and not path.exists():
            return Finding("store", f"{redacted(uri)}: does not exist yet; the first run creates it")
        client = connect(uri)
        names = sorted(one.name for one in client.search_experiments())
        client.refuse_misplaced()
    except RewindError as error:
        return Finding("store", error.message, error.hint, wrong=True)
    return Finding("store", f"{redacted(uri)}: answers, {count_of(len(names), 'experiment')}: {listed(names)}")


def _data(data_dir: Path | None) -> list[Finding]:
    findings = []
    for entry in inventory(data_dir):
        advice = "" if entry["place"] else f"rewindctl data fetch {entry['name']}"
        looked = f"not in {', '.join(map(str, places(data_dir)))}"
        findings.append(Finding(f"data {entry['name']}", entry["place"] or looked, advice))
    return findings


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    advice = "free disk space: a full-length ResNet-20 study writes gigabytes" if free < LITTLE_DISK else ""
    return Finding("disk", f"{free / 1e9:.0f} GB free in {Path.cwd()}", advice)


def _resume_points() -> Finding:
    folder = resume_file("").parent
    count = len(list(folder.glob("*.safetensors"))) if folder.is_dir() else 0
    return Finding("resume", f"{count_of(count, 'interrupted run')} can be resumed from {folder}")


def _kept() -> Finding:
    """What an outage kept on this machine."""
    found = kept()
    if not found:
        return Finding("kept", "no results wait to be uploaded")
    places = ", ".join(f"{count} for {uri or 'an unknown store: altered'}" for uri, count in sorted(found.items()))
    text = f"results of {count_of(found.total(), 'run')} wait to be uploaded: {places}"
    return Finding("kept", text, "rewindctl recover uploads them")
