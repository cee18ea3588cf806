"""The soak, `make soak`: section after section, each with its share of the time; exit code 1 for a broken law."""

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path

from soak.world import quiet_threads

FEWEST_KILLS = 200
WHOLE_SECONDS = 1_000.0  # a soak as long as this has to come to FEWEST_KILLS
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    options = _options()
    quiet_threads()
    # In a process that is forked, until the command takes both signals itself: a killed one ends as an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from soak.page import write_figures
    from soak.sections import SHARES, Done, section, title

    chosen = options.sections.split(",") if options.sections else list(SHARES)
    began, done = time.monotonic(), []
    for index, name in enumerate(chosen):
        _say(f"{name}: seed {options.seed}")
        share = SHARES[name] / sum(SHARES[one] for one in chosen[index:])
        left = began + options.seconds - time.monotonic()
        ended = Done(title(name), 0.0, failures=section(name).failures)
        since = time.monotonic()
        try:
            ended.figures = section(name).run(share * left, options.seed)
        except Exception:
            ended.failures.append(f"{name} broke off: {traceback.format_exc()}")
        ended.seconds = time.monotonic() - since
        kills = ended.figures.get("kills", FEWEST_KILLS)
        if kills < FEWEST_KILLS and options.seconds >= WHOLE_SECONDS:
            ended.failures.append(f"only {kills} kills in {ended.seconds:.0f} s, fewer than {FEWEST_KILLS}")
        done.append(ended)
        _say(f"{name}: {len(ended.failures)} broken laws after {ended.seconds:.0f} s")
    failures = [line for one in done for line in one.failures]
    for line in failures:
        _say(f"broken: {line}")
    if options.page:
        write_figures(PAGE, done, options.seed, time.monotonic() - began)
    if failures:
        _say(f"{len(failures)} broken laws; again: make soak SECONDS={options.seconds:g} SEED={options.seed}")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="Break commands until the time is over.")
    parser.add_argument("--seconds", type=float, default=WHOLE_SECONDS, help="time in all [1000]")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of all that is random [the time]")
    parser.add_argument("--sections", default="", help="only these, joined by commas")
    parser.add_argument("--page", action="store_true", help="write the figures to docs/reliability.md")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
