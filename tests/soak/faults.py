"""Section: disks fill up at every write, are read-only, forbid; afterwards the same command ends as if they had not."""

import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak import disks
from soak.forks import Ended, command
from soak.kills import Unbroken, compare, unbroken
from soak.sections import Failures
from soak.world import Stage, Story, shared

ROOM = 1 << 30
STEPS = 8  # sizes of a disk between what the command starts with and what it needs
NOBODY = 65_534
FIRST = ("train-dense", "registry import", "tune", "compare --log", "data import", "registry export", "prune", "init")
# What is said of a disk, and where: the path or the store, and what to do about it.
WORDS = ("No space left", "disk is full", "disk I/O error", "Read-only file system", "readonly database")
WORDS += ("Permission denied", "File too large", "unable to open database file", "cannot be written")
ADVICE = ("space", "writable", "the same command", "another place")

failures: list[str] = Failures()


@dataclass
class Tally:
    """Faults by command and kind, those that a command noticed; and what could not be tried."""

    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    survived: int = 0
    read: int = 0
    skipped: str = ""


def run(budget_seconds: float, seed: int) -> dict[str, Any]:
    """Every part of the world that a command writes to gets too small, read-only, another's; command by command."""
    deadline = time.monotonic() + budget_seconds
    stage, dice, tally = shared(), random.Random(seed), Tally()
    tally.skipped = stage.no_disks
    if not tally.skipped:
        _read(stage, tally)
    order = [*FIRST, *(name for name in stage.stories if name not in FIRST)]
    for story in (stage.stories[name] for name in order if name in stage.stories):
        whole = None
        for part in story.writes:
            if time.monotonic() > deadline:
                break
            whole = whole or unbroken(stage, story)
            for kind, attempt in KINDS.items():
                if kind in ("full", "read-only") and tally.skipped:
                    continue
                try:
                    attempt(stage, story, part, whole, tally, dice)
                except TimeoutError as error:
                    failures.append(f"{story.name}, {part} {kind}: {error}")
            counted = f"{tally.injected.total():4} faults, {len(failures)} broken laws"
            sys.stderr.write(f"  {counted}: {story.name}, {part}\n")
    return _figures(tally)


@contextmanager
def disk(stage: Stage, part: str) -> Iterator[Path]:
    """A part of the world on a disk of its own."""
    path = stage.world.part(part)
    disks.mount(path, ROOM)
    try:
        yield path
    finally:
        disks.unmount(path)


def _read(stage: Stage, tally: Tally) -> None:
    """From a store on a read-only disk everything can be read."""
    dense = stage.stories["prune"].arguments[2]
    commands = {("list",), ("show", dense), ("lineage", dense), ("verify", "--all"), ("compare",)}
    with disk(stage, "home") as path:
        stage.world.restore("whole")
        disks.resize(path, ROOM, read_only=True)
        for arguments in sorted(commands):
            ended = stage.world.run(arguments)
            tally.read += ended.code == 0
            if ended.code:
                failures.append(f"{' '.join(arguments)} from a read-only store: {ended.code}: {ended.err[-1200:]}")
        disks.resize(path, ROOM)


def _full(stage: Stage, story: Story, part: str, whole: Unbroken, tally: Tally, dice: random.Random) -> None:
    """One attempt after the other on a disk that is a little larger each time, until the command ends well."""
    with disk(stage, part) as path:
        stage.world.restore(story.start)
        before, most = disks.used(path), 0

        def look() -> None:
            nonlocal most
            most = max(most, disks.used(path))

        stage.world.run(story.arguments, look)
        need = max(most, disks.used(path)) - before
        stage.world.restore(story.start)
        for step in range(STEPS):
            room = int(need * (step + dice.random()) / STEPS) if step else 0
            disks.resize(path, max(disks.used(path), before + room, disks.PAGE))
            ended = stage.world.run(story.arguments)
            disks.resize(path, ROOM)
            if _noted(story, part, f"full but for {room:,} bytes", ended, tally, "full"):
                break
        _end(stage, story, f"{part} full", whole, tally)


def _read_only(stage: Stage, story: Story, part: str, whole: Unbroken, tally: Tally, dice: random.Random) -> None:
    with disk(stage, part) as path:
        stage.world.restore(story.start)
        disks.resize(path, ROOM, read_only=True)
        ended = stage.world.run(story.arguments)
        disks.resize(path, ROOM)
        _noted(story, part, "read-only", ended, tally, "read-only")
        _end(stage, story, f"{part} read-only", whole, tally)


def _forbidden(stage: Stage, story: Story, part: str, whole: Unbroken, tally: Tally, dice: random.Random) -> None:
    """The folder is another user's, or ours without the right to write: root has to become somebody else for it."""
    stage.world.restore(story.start)
    folder, world = stage.world.part(part), stage.world.root
    root = os.getuid() == 0 and not stage.alone
    if os.getuid() == 0 and not root:
        return  # root of nobody but itself: it cannot become another, and is forbidden nothing
    if root:
        _give(world, NOBODY)
        _give(folder, 0)
        stage.world.user = NOBODY
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    ended = stage.world.run(story.arguments)
    for path, mode in modes.items():
        path.chmod(mode)
    if root:
        _give(world, 0)
        stage.world.user = 0
    _noted(story, part, "forbidden", ended, tally, "forbidden")
    _end(stage, story, f"{part} forbidden", whole, tally)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def _too_large(stage: Stage, story: Story, part: str, whole: Unbroken, tally: Tally, dice: random.Random) -> None:
    """No file may be larger than so much (a quota's way, for any user); only once a command, for all parts."""
    if part != story.writes[0]:
        return
    stage.world.restore(story.start)
    sizes = [path.stat().st_size for path in stage.world.root.joinpath("world").rglob("*") if path.is_file()]
    for limit in sorted(int(dice.uniform(1_000, max([*sizes, 100_000]) * 1.05)) for _ in range(3)):

        def limited(limit: int = limit) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return command(story.arguments)()

        ended = stage.world.do(limited)
        if _noted(story, part, f"files of at most {limit:,} bytes", ended, tally, "file size"):
            break
    _end(stage, story, "file size", whole, tally)


KINDS = {"full": _full, "read-only": _read_only, "forbidden": _forbidden, "file size": _too_large}


def _noted(story: Story, part: str, fault: str, ended: Ended, tally: Tally, kind: str) -> bool:
    """Whether the command ended well in spite of all; a broken law where it failed in any way but the clear one."""
    if ended.code == 0:
        return True
    tally.injected[story.name, kind] += 1
    lines = ended.err.splitlines()
    clear = len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: ")
    named = clear and "/" in lines[0] and any(word in lines[0] for word in WORDS)
    if ended.code != 1 or not named or not any(word in lines[1] for word in ADVICE):
        failures.append(f"{story.name}, {part} {fault}: exit code {ended.code}: {ended.err[-1200:]}")
    return False


def _end(stage: Stage, story: Story, fault: str, whole: Unbroken, tally: Tally) -> None:
    """With room again, the same command ends as the unbroken one."""
    ended = stage.world.run(story.arguments)
    lines = compare(stage, story, whole) if ended.code == 0 else [f"exit code {ended.code}: {ended.err[-700:]}"]
    failures.extend(f"{story.name}, after {fault}: {line}" for line in lines)
    tally.survived += 1


def _figures(tally: Tally) -> dict[str, Any]:
    figures: dict[str, Any] = {"faults that a command met": tally.injected.total(), "ends compared": tally.survived}
    figures["commands that read from a read-only store"] = tally.read
    if tally.skipped:
        figures["not tried"] = f"full and read-only disks ({tally.skipped})"
    stories = sorted({story for story, _ in tally.injected})
    return figures | {"table": {story: {kind: tally.injected[story, kind] for kind in KINDS} for story in stories}}
