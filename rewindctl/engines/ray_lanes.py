"""Stages in actors of a Ray cluster, several in each: one for each GPU, or for so many cores.

The command asks an actor for news turn by turn, and gives it new stages with the question. So an actor that dies is
one call that fails, and the stages it had are known. Ray places the actors, and starts none again: this does.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import GRACE_SECONDS
from rewindctl.engines.ray_host import HostNews, HostPlace
from rewindctl.engines.ray_tasks import end_of

TURN_SECONDS = 0.2  # as long as a new stage waits for an actor at most
START_SECONDS = 60.0  # what takes longer to start has no room: its stages go to the others
AGAIN_SECONDS = 5.0  # from a start that failed to the next


@dataclass(eq=False)
class _Host:
    """An actor as the command sees it. `lanes`: none until it has begun. `call`: what it is doing now.

    `tasks` are those it was given, `new` those it will be given with the next question.
    """

    actor: Any
    call: Any
    asked: float
    node: str = ""
    lanes: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    new: list[Task] = field(default_factory=list)

    @property
    def load(self) -> int:
        return len(self.tasks) + len(self.new)


class LaneHosts:
    """As many actors as there is work for, at most `room`. `start` asks Ray for one; `usual`: lanes of most of them."""

    def __init__(self, ray: Any, start: Callable[[], Any], usual: int) -> None:
        self.room = 0
        self._ray, self._start, self._usual = ray, start, usual
        self._hosts: list[_Host] = []
        self._waiting: deque[Task] = deque()
        self._done: dict[str, int] = {}
        self._not_before = 0.0
        self._ask_idle = False

    def slots(self, jobs: int | None) -> int:
        """The lanes of the actors that have begun, and what the others will probably have; at most `jobs`."""
        begun = [host.lanes for host in self._hosts if host.lanes]
        lanes = sum(begun) + max(0, self.room - len(begun)) * self._usual
        return max(1, min(jobs or lanes, lanes))

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[Answer]:
        self._staff()
        self._hand_out()
        self._ask()
        calls = {host.call: host for host in self._hosts if host.call is not None}
        if not calls:  # no node has room for an actor now
            time.sleep(seconds)
            return []
        if self._ray.wait(list(calls), timeout=seconds)[0]:
            ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
            return [answer for call in ready for answer in self._take(calls[call])]
        return []

    def progress(self) -> dict[str, int]:
        under_way = {key for host in self._hosts for key in host.tasks}
        return {key: done for key, done in self._done.items() if key in under_way}

    def close(self) -> None:
        """Interrupt all lanes, wait until they are recorded, end the actors."""
        try:
            closed = [host.actor.close.remote() for host in self._hosts if host.tasks]
            if closed:
                self._ray.wait(closed, num_returns=len(closed), timeout=GRACE_SECONDS)
        finally:
            self._waiting.clear()
            for host in self._hosts.copy():
                self._end(host)

    def look(self, nodes: Collection[str]) -> None:
        """Forget the idle actors of nodes that are gone; whether the others are there is asked with the next turn."""
        for host in [host for host in self._hosts if host.lanes and not host.load and host.node not in nodes]:
            self._end(host)
        self._ask_idle = True

    def _staff(self) -> None:
        """As many actors as stages under way, and as the nodes hold that are there now."""
        wanted = min(self.room, len(self._waiting) + sum(host.load for host in self._hosts))
        now = time.monotonic()
        while len(self._hosts) < wanted and now >= self._not_before:
            actor = self._start()
            self._hosts.append(_Host(actor, actor.begin.remote(), now))
        starting = [host for host in self._hosts if not host.lanes]
        for host in starting[: max(0, len(self._hosts) - self.room)]:  # its node is gone
            self._end(host)

    def _hand_out(self) -> None:
        begun = [host for host in self._hosts if host.lanes]
        coming = sum(not host.lanes and time.monotonic() - host.asked < START_SECONDS for host in self._hosts)
        loads, lanes = [host.load for host in begun], [host.lanes for host in begun]
        for place in places(len(self._waiting), loads, lanes, coming):
            begun[place].new.append(self._waiting.popleft())

    def _ask(self) -> None:
        for host in self._hosts:
            if host.call is None and (host.load or self._ask_idle):
                given, host.new = host.new, []
                host.tasks |= {task.key: task for task in given}
                host.call = host.actor.turn.remote(given, TURN_SECONDS)
        self._ask_idle = False

    def _take(self, host: _Host) -> list[Answer]:
        """What the call of an actor came to."""
        call, host.call = host.call, None
        try:
            told = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return self._lost(host, error)
        if isinstance(told, HostPlace):
            host.node, host.lanes = told.node, told.lanes
            return []
        assert isinstance(told, HostNews)
        self._done |= told.progress
        for answer in told.answers:
            del host.tasks[answer.key]
            self._done.pop(answer.key, None)
        return told.answers

    def _lost(self, host: _Host, error: BaseException) -> list[Answer]:
        """An actor died: an answer for each stage that it had. One that did not begin had none, unless it is alone."""
        self._waiting.extendleft(reversed(host.new))
        self._end(host)
        lost = list(host.tasks.values())
        if not host.lanes:
            self._not_before = time.monotonic() + AGAIN_SECONDS
            if not self._hosts:  # who waits for ever hears nothing of what is wrong
                lost = list(self._waiting)
                self._waiting.clear()
        for task in lost:
            self._done.pop(task.key, None)
        return [end_of(self._ray, task.key, error) for task in lost]

    def _end(self, host: _Host) -> None:
        self._hosts.remove(host)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(host.actor)


def places(waiting: int, loads: Sequence[int], lanes: Sequence[int], coming: int) -> list[int]:
    """Which actor takes each of the first stages that wait: the one that has the fewest, while it has a free lane.

    Actors that are still `coming` keep their share of all stages: the first one there must not take everything.
    """
    if not lanes:
        return []
    now, taken = list(loads), list[int]()
    share = math.ceil((waiting + sum(loads)) / (len(lanes) + coming))
    most = [min(count, share) if coming else count for count in lanes]
    while len(taken) < waiting and (free := [index for index, load in enumerate(now) if load < most[index]]):
        taken.append(min(free, key=lambda index: now[index]))
        now[taken[-1]] += 1
    return taken
