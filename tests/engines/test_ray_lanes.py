"""Which actor of a Ray cluster gets which stage, and what is answered when one dies: by a Ray that is none."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.ray_host import HostNews, HostPlace
from rewindctl.engines.ray_lanes import LaneHosts, places

A, B, C, D = (Task(key, "{}", None) for key in "abcd")


@pytest.mark.parametrize(
    ("waiting", "loads", "lanes", "coming", "taken"),
    [
        (3, [], [], 2, []),
        (4, [0, 0], [8, 8], 0, [0, 1, 0, 1]),
        (2, [3, 1], [8, 8], 0, [1, 1]),
        (5, [1, 0], [2, 2], 0, [1, 0, 1]),
        (4, [0], [8], 1, [0, 0]),  # half of them for the one that starts
        (1, [0], [8], 1, [0]),
        (3, [2], [8], 2, []),
        (9, [0, 0], [1, 8], 0, [0] + [1] * 8),  # no shares where none starts
        (5, [0, 0], [2, 2], 0, [0, 1, 0, 1]),
        (0, [1], [2], 0, []),
    ],
)
def test_the_least_busy_takes_a_stage_and_leaves_those_that_start_their_share(
    waiting: int, loads: Sequence[int], lanes: Sequence[int], coming: int, taken: list[int]
) -> None:
    assert places(waiting, loads, lanes, coming) == taken


class _RayError(Exception):
    pass


class _RayTaskError(_RayError):
    pass


class _RayCancelError(_RayError):
    pass


class Actor:
    """Notes the calls; a test says what the last one came to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result: Any = None
        self.killed = False
        for name in ("begin", "turn", "close"):
            setattr(self, name, SimpleNamespace(remote=lambda *given, name=name: self._call(name, *given)))

    def _call(self, *call: Any) -> "tuple[Actor, int]":
        self.calls.append(call)
        return self, len(self.calls)

    def given(self) -> list[str]:
        """The stages of the last question."""
        return [task.key for task in self.calls[-1][1]]


class FakeRay:
    exceptions = SimpleNamespace(RayError=_RayError, RayTaskError=_RayTaskError, TaskCancelledError=_RayCancelError)

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call[0].result is not None], []

    def get(self, call: Any) -> Any:
        result, call[0].result = call[0].result, None
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self, actor: Actor) -> None:
        actor.killed = True


class Office:
    """The hosts, and the actors that they started."""

    def __init__(self, room: int, lanes: int = 2) -> None:
        self.actors: list[Actor] = []
        self.hosts = LaneHosts(FakeRay(), self._start, lanes)
        self.hosts.room = room

    def _start(self) -> Actor:
        self.actors.append(Actor())
        return self.actors[-1]

    def submit(self, *tasks: Task) -> None:
        for task in tasks:
            self.hosts.submit(task)

    def step(self, *results: Any) -> list[Answer]:
        """One `wait`, after which the calls of the actors have come to these; None: not yet."""
        for actor, result in zip(self.actors, results, strict=True):
            actor.result = result
        return self.hosts.wait(0)

    def begun(self, *tasks: Task) -> None:
        """Actors on the nodes 0, 1 and so on have these stages."""
        self.submit(*tasks)
        self.step()
        self.step(*(HostPlace(str(index), 2) for index in range(len(self.actors))))
        self.step(*(None for _ in self.actors))


def test_stages_wait_for_the_first_actor_and_reach_it_with_the_next_question() -> None:
    office = Office(room=3)
    assert (office.hosts.slots(None), office.hosts.slots(5), office.hosts.slots(9)) == (6, 5, 6)
    office.submit(A, B)
    assert office.step() == []
    assert [actor.calls for actor in office.actors] == [[("begin",)]] * 2  # no more than there is work for
    assert office.step(HostPlace("0", 8), None) == []
    assert office.hosts.slots(None) == 8 + 2 + 2
    office.step(None, None)
    assert office.actors[0].given() == ["a"]  # the other's share is kept
    assert office.step(None, HostPlace("1", 2)) == []
    office.step(HostNews([], {"a": 7}), None)
    assert office.actors[1].given() == ["b"]
    assert office.hosts.progress() == {"a": 7}
    done = Answer("a", "run", "said", "hint", stopped=True, reused=True)
    assert office.step(HostNews([done], {}), HostNews([], {"b": 1})) == [done]
    assert office.hosts.progress() == {"b": 1}


def test_an_actor_that_dies_loses_its_stages_and_no_others() -> None:
    office = Office(room=2)
    office.begun(A, B, C)
    first, second = office.actors
    assert (first.given(), second.given()) == (["a", "c"], ["b"])
    office.submit(D)
    answers = office.step(None, _RayError())  # which has not heard of the new one
    assert [(answer.key, answer.crashed) for answer in answers] == [("b", True)]
    assert second.killed
    office.submit(B)
    office.step(None, None)
    assert len(office.actors) == 3  # another takes its place
    office.step(None, None, HostPlace("0", 2))
    office.step(None, None, None)
    assert office.actors[2].given() == ["d", "b"]


def test_a_defect_of_an_actor_is_no_death() -> None:
    office = Office(room=1)
    office.begun(A)
    (answer,) = office.step(_RayTaskError("ValueError: no"))
    assert (answer.crashed, answer.message, answer.hint) == (False, "ValueError: no", "this is a defect")


def test_stages_hear_of_an_actor_that_does_not_begin_when_there_is_no_other() -> None:
    office = Office(room=2)
    office.submit(A, B)
    office.step()
    assert office.step(_RayError(), None) == []
    (a, b) = office.step(None, _RayError())
    assert (a.key, b.key, a.crashed, b.crashed) == ("a", "b", True, True)
    office.submit(A, B)
    assert office.step(None, None) == []
    assert len(office.actors) == 2  # not at once again


def test_idle_actors_of_lost_nodes_are_forgotten_and_the_others_asked() -> None:
    office = Office(room=2)
    office.begun(A, B)
    done = [HostNews([Answer(key, "run")], {}) for key in "ab"]
    assert len(office.step(*done)) == 2
    office.hosts.room = 1
    office.hosts.look({"0"})
    first, second = office.actors
    assert (first.killed, second.killed) == (False, True)
    office.step(None, None)
    assert first.calls[-1][:2] == ("turn", [])
    assert office.step(_RayError(), None) == []  # nobody's stage
    office.submit(C)
    office.step(None, None)
    assert len(office.actors) == 3


def test_an_actor_that_has_not_begun_goes_with_its_node() -> None:
    office = Office(room=2)
    office.submit(A, B)
    office.step()
    office.step(HostPlace("0", 2), None)
    office.hosts.room = 1
    office.step(None, None)
    assert [actor.killed for actor in office.actors] == [False, True]
    assert office.actors[0].given() == ["a", "b"]


def test_the_end_tells_those_that_have_stages_and_leaves_no_actor() -> None:
    office = Office(room=3)
    office.begun(A, B)
    office.step(HostNews([Answer("a", "run")], {}), None)
    office.submit(C, D)
    office.step(None, None)
    office.hosts.close()
    office.hosts.close()
    assert [actor.killed for actor in office.actors] == [True] * len(office.actors)
    assert [("close",) in actor.calls for actor in office.actors][:2] == [True, True]
    assert office.hosts.progress() == {}
