"""Section: every command is killed at any moment, again and again, and ends as if it never had been."""

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from soak.forks import Ended
from soak.laws import differences, state_of
from soak.sections import Failures
from soak.world import Stage, Story, shared

TARGET = 240
CHAIN = 6  # kills in a row before the command may end
FRESH = 12  # every so many kills the process is one that imports everything itself, as a user's does
FRESH_SECONDS = 6.0
GENTLE = {5: signal.SIGTERM, 11: signal.SIGINT}  # these of every 12 kills; the others are SIGKILL
CLEAN_CODES = {0, 130}

failures: list[str] = Failures()


@dataclass(frozen=True)
class Unbroken:
    """What the command comes to when nothing happens to it."""

    state: dict[str, Any]
    files: set[str]
    seconds: float
    writes: int


@dataclass
class Kill:
    """A signal at a moment: after so many seconds, or before a write by its number."""

    number: signal.Signals
    seconds: float = 0.0
    write: int = 0
    fresh: bool = False

    def __str__(self) -> str:
        when = f"before write {self.write}" if self.write else f"after {self.seconds:.3f} s"
        return f"{self.number.name} {when}{' (fresh)' if self.fresh else ''}"


@dataclass
class Tally:
    """Kills by command and signal."""

    survived: Counter[tuple[str, str]] = field(default_factory=Counter)
    at_writes: int = 0
    fresh: int = 0
    endings: int = 0

    @property
    def total(self) -> int:
        return sum(self.survived.values())

    def note(self, story: Story, kill: Kill) -> None:
        self.survived[story.name, kill.number.name] += 1
        self.at_writes += kill.write > 0
        self.fresh += kill.fresh


def run(budget_seconds: float, seed: int) -> dict[str, Any]:
    """Kill in every story in turn until there are TARGET kills, or the time is over."""
    deadline = time.monotonic() + budget_seconds
    stage, dice, tally = shared(), random.Random(seed), Tally()
    known: dict[str, Unbroken] = {}
    strata = {name: _strata(dice) for name in stage.stories}
    for story in cycle(stage.stories.values()):
        if tally.total >= TARGET or time.monotonic() > deadline:
            break
        if story.name not in known:
            known[story.name] = unbroken(stage, story)
        kills = _chain(stage, story, known[story.name], strata[story.name], dice, tally)
        for line in _end(stage, story, known[story.name]):
            failures.append(f"{story.name}, killed {', '.join(map(str, kills))}: {line}")
        tally.endings += 1
        sys.stderr.write(f"  {tally.total:4} kills, {len(failures)} broken laws: {story.name}\n")
    return _figures(tally)


def unbroken(stage: Stage, story: Story) -> Unbroken:
    """Run the story once, whole. Raises: RuntimeError."""
    stage.world.restore(story.start)
    ended = stage.world.run(story.arguments)
    if ended.code:
        raise RuntimeError(f"{story.name}: exit code {ended.code}: {ended.err}")
    return Unbroken(look_at(stage), stage.world.files(), ended.seconds, ended.writes)


def look_at(stage: Stage) -> dict[str, Any]:
    """The store as it is now."""
    into = stage.world.root / "state.json"
    uri = stage.world.uri
    ended = stage.world.do(lambda: state_of(uri, into))
    if ended.code:
        return {"results": {}, "broken": [f"the store cannot be read: {ended.err[-1000:]}"]}
    state: dict[str, Any] = json.loads(into.read_text())
    return state


def _strata(dice: random.Random) -> Iterator[float]:
    """Fractions that fill the whole from 0 to 1 evenly, in any order: each quarter is met before one comes again."""
    while True:
        quarters = [0, 1, 2, 3]
        dice.shuffle(quarters)
        for quarter in quarters:
            yield (quarter + dice.random()) / 4


def _chain(
    stage: Stage, story: Story, whole: Unbroken, strata: Iterator[float], dice: random.Random, tally: Tally
) -> list[Kill]:
    """Start the story, kill it, start it again, kill it ...; it may be over before."""
    stage.world.restore(story.start)
    kills: list[Kill] = []
    for index in range(CHAIN):
        count = tally.total + 1
        kill = Kill(GENTLE.get(count % 12, signal.SIGKILL), fresh=count % FRESH == 0)
        share = next(strata) if index == 0 else dice.random() * 0.9
        if dice.random() < 0.5 and not kill.fresh:
            kill.write = 1 + int(share * whole.writes)
        else:
            kill.seconds = share * (whole.seconds + FRESH_SECONDS * kill.fresh)
        ended, hit = _kill(stage, story, kill)
        kills.append(kill)
        if hit:
            tally.note(story, kill)
            wrong = ended.code not in ({-kill.number} if kill.number == signal.SIGKILL else CLEAN_CODES)
            if wrong and not (kill.fresh and kill.number != signal.SIGKILL):  # Python itself was still starting
                failures.append(f"{story.name}, {kill}: exit code {ended.code}: {ended.err[-600:]}")
        elif ended.code:
            failures.append(f"{story.name}, after {', '.join(map(str, kills))}: exit code {ended.code}: {ended.err}")
        if ended.code == 0:
            break
    return kills


def _kill(stage: Stage, story: Story, kill: Kill) -> tuple[Ended, bool]:
    """How the process ended, and whether the signal came before its end."""
    if kill.write:
        ended = stage.world.start(story.arguments, (kill.write, kill.number)).end()
        return ended, ended.writes >= kill.write
    child = (stage.world.start_fresh if kill.fresh else stage.world.start)(story.arguments)
    before = child.wait(kill.seconds)
    if before is not None:
        return before, False
    child.signal(kill.number)
    ended = child.end()
    return ended, ended.code != 0  # it may have ended meanwhile


def _end(stage: Stage, story: Story, whole: Unbroken) -> list[str]:
    """Let the story end; a line for each law that is broken then."""
    ended = stage.world.run(story.arguments)
    if ended.code:
        return [f"exit code {ended.code} in the end: {ended.err[-1000:]}"]
    return compare(stage, story, whole)


def compare(stage: Stage, story: Story, whole: Unbroken) -> list[str]:
    """What is not as in the unbroken world: results, files; and laws of any world."""
    if whole.state["broken"]:
        return [f"unbroken: {line}" for line in whole.state["broken"]]
    state = look_at(stage)
    lines = [*state["broken"], *differences(state["results"], whole.state["results"])]
    files = stage.world.files()
    lines += [f"{path} was left" for path in sorted(files - whole.files)]
    lines += [f"{path} is missing" for path in sorted(whole.files - files)]
    return lines[:12]


def _figures(tally: Tally) -> dict[str, Any]:
    names = [number.name for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)]
    stories = dict.fromkeys(story for story, _ in tally.survived)
    return {
        "kills": tally.total,
        "of them before a write chosen by its number": tally.at_writes,
        "of them in processes that import everything themselves": tally.fresh,
        "unbroken ends compared": tally.endings,
        "table": {story: {name: tally.survived[story, name] for name in names} for story in sorted(stories)},
    }
