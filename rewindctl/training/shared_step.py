"""One step of several trainings: each is a lane, a row of the same kernels, which begins and ends when it likes.

A thread of its own starts the kernels. The trainings are in threads too, and hand over the updates to make as legs:
between two legs nothing changes but what the kernels change themselves, and the host has nothing to do.
"""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from rewindctl.datasets.batches import DeviceData, Draws
from rewindctl.errors import RewindError
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.graph import alone, aside, capture, rehearse

CHUNK_SECONDS = 0.05  # what is started at once: a lane that comes back waits for so long, twice at most
MOST_AT_ONCE = 256  # updates
FIRST_ROWS = 1  # others are made when they are needed: trainings of several kinds share the memory
CLOSE_SECONDS = 60.0  # a thread that waits for a compiler is not waited for longer
AHEAD = 2  # legs that a lane hands over before the first is done
LOOK_SECONDS = 0.25  # how long a training waits before it looks for an interrupt

T = TypeVar("T")


@dataclass(frozen=True)
class Leg:
    """The updates from `start` up to `stop`: one rate, one epoch, whose `draws` are new to the lane or None.

    `batch` is the place of the first in the epoch.
    """

    start: int
    stop: int
    rate: float
    batch: int
    draws: Draws | None


@dataclass
class Lane:
    """A training's place. `row` and all below are the step's own to change, in its thread.

    `made` is the number of the next update: all before are made, or under way on the device.
    """

    row: int
    made: int = -1
    legs: deque[Leg] = field(default_factory=deque)
    begun: bool = False  # the first of the legs
    rate: float | None = None
    changed: threading.Event = field(default_factory=threading.Event)


class _Question:
    """What a training wants done or read between two updates."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._answer: SimpleQueue[tuple[Any, BaseException | None, torch.cuda.Event | None]] = SimpleQueue()

    def do(self, device: torch.device) -> None:
        try:
            result = self._work()
            event = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
            self._answer.put((result, None, event))
        except Exception as error:
            self._answer.put((None, error, None))

    def fail(self, error: BaseException) -> None:
        self._answer.put((None, error, None))

    def wait(self) -> Any:
        result, error, event = self._answer.get()
        if error is not None:
            raise error
        if event is not None:
            event.synchronize()
        return result


class SharedStep:
    """At most `capacity` lanes of trainings that have network, data and `constants` in common.

    Lanes with updates to make lie in the first rows, and as many rows are worked on. No byte of a lane depends on that.
    """

    def __init__(
        self,
        network: Network,
        data: DeviceData,
        constants: Constants,
        capacity: int,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """`stream`: nobody else's, on CUDA."""
        self._given = network, data, constants
        self.device, self.capacity, self.stream = data.device, capacity, stream
        self.trials = self._make(min(FIRST_ROWS, capacity))
        self.captured = data.device.type == "cuda"
        self.error: BaseException | None = None
        self._lanes: list[Lane | None] = [None] * self.trials.count
        self._questions: SimpleQueue[_Question] = SimpleQueue()
        self._wake = threading.Event()
        self._closed = False
        self._steps: dict[int, Callable[[], None]] = {}
        self._working: list[Lane] = []
        self._left = 0  # updates that all of them can make before the next look at what each does
        self._at_once = 1
        self._under_way: deque[tuple[torch.cuda.Event | None, int]] = deque()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._work, name="shared step", daemon=True)
        self._thread.start()

    # For the threads of the trainings

    def enter(self, start: TrainState, mask: Mask | None) -> Lane:
        """A lane that begins at `start`. Raises: what ended the step, if something did."""

        def begin() -> Lane:
            if None not in self._lanes:
                self._grow()
            row = self._lanes.index(None)
            self.trials.load(row, start, mask)
            self._lanes[row] = lane = Lane(row)
            return lane

        return self.ask(begin)

    def leave(self, lane: Lane) -> None:
        """Give the lane back; what is under way of it is made and dropped."""

        def end() -> None:
            self._lanes[lane.row] = None

        try:
            self.ask(end)
        except BaseException:
            if self.error is None:  # else the step has ended, and the training ends as it was about to
                raise

    def give(self, lane: Lane, leg: Leg) -> None:
        """Add a leg to those that the lane has to make; `changed` is set when one is made."""
        lane.legs.append(leg)
        self._wake.set()

    def withdraw(self, lane: Lane) -> int:
        """Take back the legs that are not made; the number of the next update."""

        def stop() -> int:
            lane.legs.clear()
            lane.begun = False
            return lane.made

        return self.ask(stop)

    def wait(self, lane: Lane) -> None:
        """Until `changed` is set, for LOOK_SECONDS at most. Raises: what ended the step."""
        lane.changed.wait(LOOK_SECONDS)
        self._raise_if_failed()

    def ask(self, work: Callable[[], T]) -> T:
        """What `work` returns, done between two updates; what it starts on the device has ended then.

        Raises: what it raises, and what ended the step.
        """
        question = _Question(work)
        self._raise_if_failed()
        self._questions.put(question)
        self._wake.set()
        if self.error is not None:  # it ended meanwhile, perhaps without a look at this question
            self._refuse()
        result: T = question.wait()
        return result

    @property
    def in_use(self) -> bool:
        return any(self._lanes)

    def close(self) -> None:
        """End the thread, and let go of the memory."""
        self._closed = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        self._let_go()

    def _raise_if_failed(self) -> None:
        if self.error is not None:
            raise _again(self.error)

    # In the step's own thread

    def _work(self) -> None:
        try:
            with self._placed():
                while not self._closed:
                    self._wake.wait()
                    while self._turn():
                        pass
            self.error = KeyboardInterrupt()  # whoever is still training was to stop
        except BaseException as error:
            self.error = _bare(error)
        self._let_go()
        self._refuse()
        for lane in filter(None, self._lanes):
            lane.changed.set()

    def _let_go(self) -> None:
        """Of graphs and rows: trainings that have not ended yet may hold this for long."""
        self._steps.clear()
        self.__dict__.pop("trials", None)

    def _refuse(self) -> None:
        assert self.error is not None
        try:
            while True:
                self._questions.get_nowait().fail(_again(self.error))
        except Empty:
            return

    @contextmanager
    def _placed(self) -> Iterator[None]:
        if self.device.type != "cuda":
            yield
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def _turn(self) -> bool:
        """Make some updates; whether there were any. What is asked and given is looked at when there is something."""
        if self._wake.is_set() or not self._left:
            self._wake.clear()
            self._answer()
            self._plan()
        if not self._left or self._closed:
            self._settle()
            return False
        count, step = min(self._at_once, self._left), self._step_for(len(self._working))
        for _ in range(count):
            step()
        for lane in self._working:
            lane.made += count
        self._left -= count
        if not self._left:
            self._end_legs()
        self._pace(count)
        return True

    def _answer(self) -> None:
        try:
            while True:
                self._questions.get_nowait().do(self.device)
        except Empty:
            return

    def _plan(self) -> None:
        """Which lanes have updates to make, and how many until one of them has made a leg."""
        self._working = [lane for lane in self._lanes if lane is not None and lane.legs]
        self._to_the_front(self._working)
        for lane in self._working:
            if not lane.begun:
                self._begin(lane)
        self._left = min((lane.legs[0].stop - lane.made for lane in self._working), default=0)

    def _end_legs(self) -> None:
        for lane in self._working:
            if lane.made == lane.legs[0].stop:
                lane.legs.popleft()
                lane.begun = False
                lane.changed.set()

    def _make(self, rows: int) -> FusedTrials:
        trials = FusedTrials(*self._given, rows)
        self._finish()  # the rows are made on the stream of whichever thread this is
        return trials

    def _finish(self) -> None:
        """Wait for all that this thread has started."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _grow(self) -> None:
        """Twice the rows, `capacity` at most. Where there is no memory for them all is as before, and this raises."""
        before = self.trials.count
        if before == self.capacity:
            raise RewindError(f"more than {self.capacity} trainings at once", "this is a defect")
        kept = [tensor.clone() for tensor in self.trials.state()]
        self._settle()
        self._finish()
        self._steps.clear()
        del self.trials  # first, or there would have to be memory for both
        failed: BaseException | None = None
        for rows in dict.fromkeys((min(2 * before, self.capacity), before + 1, before)):
            try:
                self.trials = self._make(rows)
                break
            except Exception as error:
                if rows == before:
                    raise
                failed = _bare(error)  # which must not hold what was made of the rows
        for tensor, value in zip(self.trials.state(), kept, strict=True):
            tensor[:before].copy_(value)
        self._lanes += [None] * (self.trials.count - before)
        if self.trials.count == before and failed is not None:
            raise failed

    def _to_the_front(self, lanes: list[Lane]) -> None:
        """Bring the lanes that are worked on into the first rows."""
        wanted = {id(lane) for lane in lanes}
        behind = [lane for lane in lanes if lane.row >= len(lanes)]
        for row in range(len(lanes)):
            other = self._lanes[row]
            if other is not None and id(other) in wanted:
                continue
            lane = behind.pop()
            self.trials.exchange(row, lane.row)
            self._lanes[row], self._lanes[lane.row] = lane, other
            if other is not None:
                other.row = lane.row
            lane.row = row

    def _begin(self, lane: Lane) -> None:
        """Make the row ready for the lane's next leg."""
        leg, row, trials = lane.legs[0], lane.row, self.trials
        if leg.draws is not None:
            trials.draws.of(row).copy_(leg.draws)
        if leg.rate != lane.rate:
            trials.rate[row].fill_(leg.rate)
            lane.rate = leg.rate
        if leg.start != lane.made:  # the kernels count on by themselves
            trials.position[row].fill_(leg.batch)
            trials.iteration[row].fill_(leg.start)
            lane.made = leg.start
        lane.begun = True

    def _step_for(self, count: int) -> Callable[[], None]:
        """An update of the first `count` rows: on CUDA a graph of its own, made when it is first needed."""
        if count not in self._steps:
            self._steps[count] = self._captured(count) if self.captured else lambda: self.trials.run(count)
        return self._steps[count]

    def _captured(self, count: int) -> Callable[[], None]:
        with alone(self.device), aside(self.device) as stream:
            if not self._steps:  # later ones start the same kernels
                rehearse(self.trials.run, self.trials.changed())
            return capture(lambda: self.trials.run(count), stream)

    def _pace(self, count: int) -> None:
        """On a GPU wait for all but what was started last; see how many updates are right to start at once."""
        event = torch.cuda.current_stream(self.device).record_event() if self.captured else None
        self._under_way.append((event, count))
        if event is not None and len(self._under_way) == 1:
            return
        made, now = self._wait_for_first(), time.perf_counter()
        if self._since is not None:
            fit = CHUNK_SECONDS * made / max(now - self._since, 1e-9)
            self._at_once = max(1, min(MOST_AT_ONCE, 2 * self._at_once, int(fit)))
        self._since = now

    def _settle(self) -> None:
        """Wait for all that is under way; the time until there is more says nothing."""
        while self._under_way:
            self._wait_for_first()
        self._since = None

    def _wait_for_first(self) -> int:
        """How many updates it was."""
        event, count = self._under_way.popleft()
        if event is not None:
            event.synchronize()
        return count


def _bare(error: BaseException) -> BaseException:
    """Without the frames that it went through, and what they hold."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _again(error: BaseException) -> BaseException:
    """A copy for each training, which notes its own run in it."""
    try:
        return copy.copy(error)
    except Exception:  # of a class that makes its message of other things
        return RuntimeError(f"{type(error).__name__}: {error}")
