"""One process per stage: which process wins when several, on any machines, start a stage at the same time.

The store has no lock and no unique tags, but whoever looks sees every run made before. That is enough for Lamport's
bakery algorithm. Each contender makes a run, looks, takes a ticket above all that it sees, writes it to its run, and
looks again: it has won when no living run is ahead of it and none is still choosing its ticket. Whoever comes later
sees the winner's ticket, and takes a higher one, whatever the clocks say. A contender that loses takes its run away.
Source: L. Lamport, A new solution of Dijkstra's concurrent programming problem, CACM 17(8), 1974.
"""

import time
from collections.abc import Callable

from rewindctl.errors import BusyError
from rewindctl.registry.claiming.ownership import OwnerWatch, shown
from rewindctl.registry.records import OWNER, TICKET, RunRecord, number
from rewindctl.registry.store.client import Client

CHOOSING_SECONDS = 30.0  # a contender that takes longer to get a ticket is waited for from outside
LOOK_SECONDS = 0.05

CHOOSING = "choosing "  # what the ticket of a run is until it has one, with a word that is its maker's alone

Look = Callable[[], list[RunRecord]]


def refuse_if_busy(look: Look, watch: OwnerWatch) -> None:
    """Raises: BusyError when a living process owns one of the runs."""
    for run in _survey(look, watch)[1]:
        raise busy(run)


def win(client: Client, mine: str, look: Look, everyone: Look, watch: OwnerWatch) -> tuple[int, list[RunRecord]]:
    """The winning ticket of the run `mine`, and the stage's other runs but for those that are about to lose to it.

    While the run with the ticket is RUNNING and its owner lives, no one else wins. The ticket is above that of every
    run of the fingerprint, ended ones too (`everyone`): the newest of them is the one with the highest.
    Raises: BusyError.
    """
    ticket = 1 + max(map(ticket_of, everyone()), default=0)
    client.set_tag(mine, TICKET, str(ticket))
    deadline = time.monotonic() + CHOOSING_SECONDS
    while True:
        runs, living = _survey(look, watch)
        if not any(run.run_id == mine for run in living):
            raise BusyError(mine, "taken over by another process: no heartbeat")
        rivals = [run for run in living if run.run_id != mine]
        for run in rivals:
            if ticket_of(run) > 0 and (ticket_of(run), run.run_id) < (ticket, mine):
                raise busy(run)
        choosing = [run for run in rivals if not ticket_of(run)]
        if not choosing:
            return ticket, [run for run in runs if run not in living]
        if time.monotonic() > deadline:
            raise busy(choosing[0])
        time.sleep(LOOK_SECONDS)


def _survey(look: Look, watch: OwnerWatch) -> tuple[list[RunRecord], list[RunRecord]]:
    """The runs of the stage, and those of them that a living process is at."""
    runs = look()
    dead = {(run.run_id, run.tags.get(OWNER)) for run in runs if run.status == "RUNNING" and watch.is_dead(run)}
    if dead:
        runs = look()  # the last that an owner did after the first look may have been to close its run
    return runs, [run for run in runs if run.status == "RUNNING" and (run.run_id, run.tags.get(OWNER)) not in dead]


def busy(run: RunRecord) -> BusyError:
    """The error for a stage that `run` is running, or was running until now."""
    return BusyError(run.run_id, shown(run.tags.get(OWNER, "unknown")))


def is_choosing(run: RunRecord) -> bool:
    """Whether a run never had a ticket; runs of earlier versions have none to choose."""
    return run.tags.get(TICKET, "").startswith(CHOOSING)


def ticket_of(run: RunRecord) -> int:
    """The ticket of a run, 0 while it has none."""
    return number(run.tags.get(TICKET, ""))
