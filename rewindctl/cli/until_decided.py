"""reproduce --until-decided: a trial to the comparison that is nearest to a decision, then another look."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewindctl.counting import count_of
from rewindctl.durations import parse_duration
from rewindctl.errors import LimitError, RewindError, UsageError

if TYPE_CHECKING:
    from rewindctl.cli.session import Session
    from rewindctl.engines.run import Finished
    from rewindctl.paper.allotment import NextTrial, PlannedComparison, TrialResult
    from rewindctl.paper.plan import StudyPlan
    from rewindctl.paper.study import Study
    from rewindctl.registry import RunRecord
    from rewindctl.report.decisions import Decision

UPDATES = re.compile(r"([0-9]{1,12})it")


@dataclass
class Budget:
    """`iterations` or `seconds`, None where it is not of that; `spent`: the updates of this command so far."""

    text: str = ""
    iterations: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    spent: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def allows(self, iterations: int) -> bool:
        """Whether a trial of so many updates may begin: at the speed so far it ends in time. A first one always may."""
        if self.iterations is not None and self.spent + iterations > self.iterations:
            return False
        if self.seconds is None:
            return True
        passed = self.clock() - self.began
        return (
            passed < self.seconds and passed + (passed * iterations / self.spent if self.spent else 0) <= self.seconds
        )


def parse_budget(text: str | None) -> Budget:
    """`9m` or `200000it`; None is no limit. Raises: UsageError."""
    if text is None:
        return Budget()
    if match := UPDATES.fullmatch(text.strip()):
        if int(match[1]):
            return Budget(text, iterations=int(match[1]))
        raise UsageError(f"--budget {text!r} is nothing", "write 9m, 2h or 200000it")
    try:
        return Budget(text, seconds=parse_duration(text, "budget"))
    except UsageError as error:
        raise UsageError(
            error.message.replace("length of time", "length of time, nor a number of updates"),
            f"{error.hint}, or 200000it for updates",
        ) from None


MOST_TRIALS = 12  # the paper's own most
LARGEST = 100


@dataclass
class Ended:
    """Where the comparisons stand, and why no further trial was run.

    `next`: the trial that would be next, None where all are decided or have all trials. `out_of_time`: by
    --time-limit, not by --budget.
    """

    decisions: "list[Decision]"
    next: "NextTrial | None"
    finished: "Finished"
    spent: int = 0
    out_of_time: bool = False

    @property
    def undecided(self) -> int:
        return sum(not decision.decided for decision in self.decisions)

    def text(self) -> str:
        """The verdicts as a table."""
        from rewindctl.report.decisions import decision_table
        from rewindctl.report.formats import formats

        return formats["text"](decision_table(self.decisions))

    def as_json(self) -> dict[str, Any]:
        from rewindctl.report.decisions import decision_rows

        return {
            "decisions": decision_rows(self.decisions),
            "iterations_spent": self.spent,
            "left_of_trials": bool(self.next),
        }


def check(until_decided: bool, max_trials: int | None, budget: str | None, trials: object) -> int:
    """The most trials of a comparison. Raises: UsageError for options that do not go together."""
    from rewindctl.report.sequential import FEWEST

    for option, value in (("max-trials", max_trials), ("budget", budget)):
        if value is not None and not until_decided:
            raise UsageError(f"--{option} {value} has no meaning without --until-decided", "add --until-decided")
    if until_decided and trials is not None:
        raise UsageError(
            "--until-decided chooses the trials itself", "leave out --trials and --seeds, give --max-trials"
        )
    most = MOST_TRIALS if max_trials is None else max_trials
    if not FEWEST <= most <= LARGEST:
        raise UsageError(
            f"--max-trials {most} is not from {FEWEST} to {LARGEST}", f"fewer than {FEWEST} trials decide nothing"
        )
    return most


def compared(plan: "StudyPlan", studies: "list[Study]") -> "list[PlannedComparison]":
    """What the studies compare. Raises: UsageError where that is nothing."""
    from rewindctl.paper.allotment import comparisons
    from rewindctl.report.claims import MARGIN

    found = comparisons(plan, MARGIN, {study.name for study in studies if not study.part_of_paper})
    if not found:
        raise UsageError("no two methods are compared there", "choose a study with two retraining methods")
    return found


def print_power(session: "Session", comparisons: "list[PlannedComparison]", points: float) -> None:
    """How many trials show an effect of so many points. Raises: UsageError."""
    from rewindctl.report.formats import formats
    from rewindctl.report.power import power_rows, power_table

    if not 0 < points <= 100:
        raise UsageError(f"--power {points:g} is not a number of points", "give one above 0, such as 0.2")
    rows = power_rows(comparisons, points)
    if session.json:
        session.console.json(rows)
    else:
        session.console.data(formats["text"](power_table(rows)))


def say_end(session: "Session", ended: Ended, budget: str | None, time_limit: str | None) -> None:
    """How many comparisons are decided. Raises: LimitError where the budget or the time left a trial to run."""
    count = count_of(len(ended.decisions), "comparison")
    if ended.next is None:
        left = f", {ended.undecided} not decided after the maximum number of trials" if ended.undecided else ""
        session.console.say(f"{len(ended.decisions) - ended.undecided} of {count} decided{left}")
        return
    which = f"--time-limit {time_limit}" if ended.out_of_time else f"--budget {budget}"
    raise LimitError(
        f"{which} was reached: {ended.undecided} of {count} not decided, "
        f"{ended.spent:,} iterations spent; the next trial takes {ended.next.iterations:,}",
        "the same command goes on",
    )


@dataclass
class Collection:
    """The trials of a plan's comparisons as they are in the registry, and the next one.

    `known`: results from elsewhere. A trial of which some cells are known is run whole: a pair needs one dense run.
    """

    session: "Session"
    plan: "StudyPlan"
    comparisons: "list[PlannedComparison]"
    known: "Mapping[str, TrialResult]"
    failed: set[str] = field(default_factory=set)
    runs: "Mapping[str, RunRecord]" = field(default_factory=dict)
    decisions: "list[Decision]" = field(default_factory=list)

    def look(self) -> "list[NextTrial]":
        """Judge what is there, and rank what may come next. Raises: UsageError for results of several precisions."""
        from rewindctl.paper.allotment import TrialResult, choices, effects
        from rewindctl.paper.cost import state_of
        from rewindctl.registry import records as tag
        from rewindctl.report.decisions import decide

        self.runs = state_of(self.plan, self.session.registry(), "", self.session.precision).runs
        results = dict(self.known)
        for key, run in self.runs.items():
            if run.kind == "retrain":
                results[key] = TrialResult(run.dense_run_id, run.metric("test_accuracy"), tag.precision_of(run))
        cells = [cell for one in self.comparisons for cell in (*one.first, *one.second)]
        found = [results[key] for cell in cells for key in cell.stages if key in results]
        precisions = {result.precision or "an unknown precision" for result in found}
        if len(precisions) > 1:
            raise UsageError(
                f"the study has retrainings in {' and in '.join(sorted(precisions))}",
                "add --precision fp32 or --precision bf16",
            )
        self.decisions = [decide(one, effects(one, self.plan.seeds, results)) for one in self.comparisons]
        undecided = [(one.comparison, one.more, one.effects.keys()) for one in self.decisions if not one.decided]
        return choices(self.plan, undecided, self.runs.keys(), self.failed)

    def collect(self, run: "Callable[[StudyPlan], Finished]", budget: Budget) -> Ended:
        """Trial by trial, until all is decided, or has its most trials, or the budget or the time is over."""
        from rewindctl.engines.run import Finished
        from rewindctl.paper.allotment import trial

        total = Finished({}, [], "")
        while ranked := self.look():
            choice = next((choice for choice in ranked if budget.allows(choice.iterations)), None)
            if choice is None or total.stopped:
                return Ended(self.decisions, ranked[0], total, budget.spent)
            self.session.console.say(self.reason(choice, len(ranked)))
            part = trial(self.plan, choice.comparison, choice.place)
            finished = run(part)
            made = finished.runs.keys() - self.runs.keys()
            budget.spent += sum(part.stages[key].iterations for key in made - finished.reused)
            self.failed |= {failure.key for failure in finished.failures}
            total = Finished(total.runs | finished.runs, total.failures + finished.failures, finished.stopped)
            if finished.left:
                self.look()
                return Ended(self.decisions, choice, total, budget.spent, out_of_time=True)
            if not made and not finished.failures:
                raise RewindError(
                    f"{choice.comparison.name}: its trial is done, but its runs were not found", "verify --all"
                )
        return Ended(self.decisions, None, total, budget.spent)

    def reason(self, choice: "NextTrial", undecided: int) -> str:
        """The next trial and why it is this one."""
        decision = next(one for one in self.decisions if one.comparison is choice.comparison)
        n, effect = len(decision.effects), decision.numbers["effect"]
        seen = f"{effect:+.2f} points after {count_of(n, 'trial')}" if n else "no trial yet"
        if choice.total < float("inf"):
            away = f"about {count_of(int(choice.more), 'trial')} and {int(choice.total):,} iterations from a decision"
        else:
            away = f"no decision in sight within {len(self.plan.seeds)} trials"
        return (
            f"next: seed {self.plan.seeds[choice.place]} of {choice.comparison.name}: {seen}, {away}, "
            f"the nearest of {undecided} undecided ({choice.iterations:,} iterations now)"
        )
