"""rewindctl tune"""

import csv
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Chain, Cli, copy_chain
from plain_trials import in_lanes
from started import Started

from rewindctl.cli import run as run_command
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.claiming.ownership import is_gone

SHORT = ("--iterations", "12", "--compare-seeds", "2", "--pruner", "none")
START_SECONDS = 120


@dataclass(frozen=True)
class Tuned:
    """A finished search of 4 trials on a copy of the chain, and what its command printed."""

    chain: Chain
    journal: Path
    home: str
    printed: dict[str, Any]

    def line(self, *extra: str) -> tuple[str, ...]:
        return ("tune", "--parent", self.chain.prune, *SHORT, "--tracking-uri", self.chain.uri, *extra)

    def registry(self) -> Registry:
        return self.chain.registry()

    def trials(self) -> list[RunRecord]:
        return [run for run in self.registry().search(kind="trial") if run.parent_id == self.home]


@pytest.fixture(scope="module")
def tuned(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    copied = copy_chain(chain, tmp_path_factory.mktemp("tuned") / "copied")
    line = ("tune", "--parent", copied.prune, *SHORT, "--trials", "4", "--tracking-uri", copied.uri)
    assert run_command([*line, "--quiet"]) == 0
    (home,) = copied.registry().search(kind="tune")
    best = copied.registry().artifacts.read_json(home, "best.json")
    return Tuned(copied, copied.store.with_name("optuna-journal.log"), home.run_id, best)


def searched(runs: list[RunRecord]) -> list[RunRecord]:
    """The trials of the search itself, without the comparison at its end."""
    return [run for run in runs if run.tags[tag.TRIAL].isdecimal()]


def test_every_trial_is_a_finished_child_run_of_the_search_which_is_one_of_the_mask(tuned: Tuned) -> None:
    home = tuned.registry().get(tuned.home)
    assert (home.kind, home.parent_id, home.status) == ("tune", tuned.chain.prune, "FINISHED")
    assert home.dense_run_id == tuned.chain.dense
    trials = tuned.trials()
    assert sorted(run.tags[tag.TRIAL] for run in searched(trials)) == ["0", "1", "2", "3"]
    assert len(trials) == 4 + 2 * 2
    for run in trials:
        assert (run.status, run.tags[tag.TRIAL_STATE], run.dense_run_id) == ("FINISHED", "complete", tuned.chain.dense)
        assert run.tags[tag.SEED] == "0"
        assert (run.params["iterations"], run.params["holdout_fraction"]) == ("12", "0.1")
        curve = tuned.registry().curve(run, "validation_accuracy")
        assert sorted(curve) == list(range(13)), "a value an iteration, a 20th of so short a training"
        assert curve[12] == run.metrics["validation_accuracy"]


def test_no_run_of_a_search_has_a_number_of_the_test_set(tuned: Tuned) -> None:
    for run in [*tuned.trials(), tuned.registry().get(tuned.home)]:
        assert not [key for key in run.metrics if "test" in key]
        assert not [path for path in tuned.registry().manifest(run) if path.startswith("checkpoints")]


def test_the_best_is_the_highest_of_the_search(tuned: Tuned) -> None:
    best = tuned.printed["best"]
    runs = {run.run_id: run for run in searched(tuned.trials())}
    assert best["validation_accuracy"] == max(run.metrics["validation_accuracy"] for run in runs.values())
    winner = runs[best["run_id"]]
    assert winner.metrics["validation_accuracy"] == best["validation_accuracy"]
    assert float(winner.params["constant_lr"]) == best["params"]["lr"]
    assert tuned.registry().get(tuned.home).metrics["best_validation_accuracy"] == best["validation_accuracy"]


def test_the_comparison_is_over_seeds_that_no_trial_was_chosen_by(tuned: Tuned) -> None:
    found = tuned.printed["comparison"]
    runs = {(run.tags[tag.TRIAL], run.params["seeds"]): run for run in tuned.trials() if run not in searched([run])}
    for name in ("best", "reference"):
        for seed, value in zip(found["seeds"], found[name], strict=True):
            assert runs[name, str(seed)].metrics["validation_accuracy"] == value
    assert {run.params["constant_lr"] for (name, _), run in runs.items() if name == "reference"} == {"0.001"}
    assert not {run.params["seeds"] for run in searched(tuned.trials())} & {str(seed) for seed in found["seeds"]}
    assert found["n"] == 2
    differences = sorted(a - b for a, b in zip(found["best"], found["reference"], strict=True))
    assert found["difference"] == pytest.approx(sum(differences) / 2)


def test_the_artifacts_are_there_and_agree(tuned: Tuned) -> None:
    registry = tuned.registry()
    home = registry.get(tuned.home)
    names = {"best.json", "trials.csv", "spec.json", "environment.json", "record.json"}
    names |= {"plots/history.png", "plots/slices.png"}
    assert set(registry.manifest(home)) - {"plots/importance.png"} == names, "importance: where the trials suffice"
    with registry.artifact(home, "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = {run.run_id: run for run in searched(tuned.trials())}
    assert {row["run_id"] for row in rows} == set(runs)
    for row in rows:
        run = runs[row["run_id"]]
        assert float(row["validation_accuracy"]) == run.metrics["validation_accuracy"]
        assert (row["trial"], row["state"]) == (run.tags[tag.TRIAL], "complete")
        assert float(row["lr"]) == float(run.params["constant_lr"])
    assert tuned.printed["command"] in home.tags[tag.NOTE]


def test_the_command_for_a_full_run_retrains_the_mask_at_the_best_rate(tuned: Tuned, cli: Cli) -> None:
    program, *words = shlex.split(tuned.printed["command"])
    assert program == "rewindctl"
    run = tuned.registry().get(cli(*words, "--tracking-uri", tuned.chain.uri).run_id)
    assert (run.kind, run.status, run.parent_id) == ("retrain", "FINISHED", tuned.chain.prune)
    assert float(run.params["constant_lr"]) == tuned.printed["best"]["params"]["lr"]
    assert run.params["iterations"] == "12"


@pytest.mark.slow
def test_a_search_of_what_lies_between_the_two_rewindings_ends_in_its_best_point(
    tuned: Tuned, cli: Cli, tmp_path: Path
) -> None:
    """Weights of a recorded iteration, the clock anywhere; what is found is what `retrain` runs."""
    where = ("--tracking-uri", tuned.chain.uri)
    line = ("tune", "--parent", tuned.chain.prune, "--method", "rewind", "--trials", "4", "--compare-seeds", "0")
    space = "weights_k: {type: int, low: 1, high: 24}\nlr_k: {type: int, low: 6, high: 20}"
    (tmp_path / "space.yaml").write_text(space)
    line += ("--space", "space.yaml", "--pruner", "none", "--storage", "between.log", *where)
    answer = cli(*line, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    trials = [run for run in tuned.registry().search(kind="trial") if run.parent_id == found["run_id"]]
    points = {(int(run.params["weights_iteration"]), int(run.params["clock_start"])) for run in trials}
    assert len(trials) == 4
    assert {weights for weights, _ in points} <= {6, 12, 24}
    assert {clock for _, clock in points} <= set(range(6, 21))
    for run in trials:
        assert int(run.params["iterations"]) == 24 - int(run.params["clock_start"])
    best = found["tuning"]["best"]["params"]
    program, *words = shlex.split(found["tuning"]["command"])
    assert program == "rewindctl"
    run = tuned.registry().get(cli(*words, *where).run_id)
    assert (int(run.params["weights_k"]), int(run.params["lr_k"])) == (best["weights_k"], best["lr_k"])
    assert cli(*line).out.strip() == found["run_id"]


def test_the_same_command_finds_the_search_done(tuned: Tuned, cli: Cli) -> None:
    before = len(tuned.registry().search())
    assert cli(*tuned.line("--trials", "4")).out == f"{tuned.home}\n"
    answer = json.loads(cli(*tuned.line("--trials", "3", "--json")).out)
    assert (answer["run_id"], answer["reused"], answer["kind"]) == (tuned.home, True, "tune")
    assert answer["tuning"] == tuned.printed
    assert len(tuned.registry().search()) == before


def test_no_trial_is_taken_for_a_result(tuned: Tuned, chain: Chain, cli: Cli) -> None:
    at = ("--tracking-uri", tuned.chain.uri)
    there = json.loads(cli("compare", "--table", "cells", "--format", "json", *at).out)
    iterations = {row["label"] for row in there}
    assert not [label for label in iterations if "s1000" in label]
    trials = {run.run_id for run in tuned.registry().search(kind="trial")}
    shown = json.dumps(there)
    assert not [run_id for run_id in trials if run_id in shown]
    for run_id in (tuned.home, *trials):
        run = tuned.registry().get(run_id)
        assert cli("prune", "--parent", run_id, "--sparsity", "0.5", *at).code == 2
        assert cli("retrain", "--parent", run_id, "--method", "lr_rewind", *at).code == 2
        assert run.kind in ("tune", "trial")
    listed = cli("list", "--kind", "retrain", *at).out
    assert not [run_id for run_id in trials if run_id in listed]
    assert cli("list", "--kind", "trial", *at).out.count("of the held-out part") == len(trials)


def test_every_run_of_a_search_is_intact_and_has_its_lineage(tuned: Tuned, cli: Cli) -> None:
    at = ("--tracking-uri", tuned.chain.uri)
    assert cli("verify", "--all", *at).code == 0
    trial = tuned.trials()[0].run_id
    chain = re.findall(r"[0-9a-f]{32}", cli("lineage", trial, *at).out)
    assert chain == [tuned.chain.dense, tuned.chain.prune, tuned.home, trial]
    assert "best.json" in cli("show", tuned.home, *at).out


@pytest.mark.slow
def test_more_trials_go_on_with_the_same_study(chain: Chain, tmp_path: Path, cli: Cli) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    line = ("tune", "--parent", copied.prune, *SHORT, "--compare-seeds", "0", "--tracking-uri", copied.uri)
    first = cli(*line, "--trials", "2").run_id
    second = json.loads(cli(*line, "--trials", "5", "--json").out)
    assert second["run_id"] != first
    assert second["tuning"]["trials"] == {"complete": 5, "pruned": 0, "failed": 0}
    runs = copied.registry().search(kind="trial")
    assert [run.tags[tag.TRIAL] for run in runs] == ["0", "1", "2", "3", "4"]
    assert cli("verify", "--all", "--tracking-uri", copied.uri).code == 0


def test_a_training_that_diverges_is_recorded_and_the_search_goes_on(chain: Chain, tmp_path: Path, cli: Cli) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    (tmp_path / "space.yaml").write_text("lr: {type: categorical, choices: [0.01, 1.0e+6]}")
    line = ("tune", "--parent", copied.prune, *SHORT, "--space", "space.yaml", "--trials", "6", "--compare-seeds", "1")
    answer = cli(*line, "--tracking-uri", copied.uri, "--json")
    found = json.loads(answer.out)["tuning"]
    assert found["trials"]["failed"] >= 1
    assert sum(found["trials"].values()) == 6
    assert found["best"]["params"] == {"lr": 0.01}
    assert "diverged" in answer.err
    runs = copied.registry().search(kind="trial")
    failed = [run for run in runs if run.status == "FAILED"]
    assert len(failed) == found["trials"]["failed"]
    assert all(run.tags[tag.TRIAL_STATE] == "failed" and float(run.params["constant_lr"]) == 1e6 for run in failed)
    complete = [run for run in searched(runs) if run.status == "FINISHED"]
    assert len(complete) == 1, "one point of the space, one run: it was found again"


@pytest.mark.slow
def test_a_trial_stopped_early_says_so(chain: Chain, tmp_path: Path, cli: Cli) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    line = ("tune", "--parent", copied.prune, "--iterations", "24", "--trials", "7", "--compare-seeds", "0")
    answer = cli(*line, "--tracking-uri", copied.uri, "--json")
    found = json.loads(answer.out)["tuning"]
    assert found["trials"]["pruned"] >= 1
    assert "stopped early" in answer.err
    runs = copied.registry().search(kind="trial")
    stopped = [run for run in runs if run.tags[tag.TRIAL_STATE] == "pruned"]
    assert len(stopped) == found["trials"]["pruned"]
    for run in stopped:
        assert run.status == "FINISHED"
        assert max(copied.registry().curve(run, "validation_accuracy")) == int(run.tags[tag.PRUNED_AT]) < 24
    listed = cli("list", "--limit", "200", "--tracking-uri", copied.uri).out.splitlines()
    assert sum("  stopped early" in line for line in listed) == len(stopped)
    assert not any("pruned" in line for line in listed), "to prune is to remove weights"


@pytest.mark.slow
def test_several_seeds_a_trial_are_a_median(chain: Chain, tmp_path: Path, cli: Cli) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    (tmp_path / "space.yaml").write_text("k: {type: int, low: 1, high: 24}\nmomentum: {type: float, low: 0, high: 0.9}")
    line = ("tune", "--parent", copied.prune, "--method", "weight_rewind", "--space", "space.yaml", "--trials", "3")
    answer = cli(*line, "--seeds", "3", "--compare-seeds", "1", "--tracking-uri", copied.uri, "--json")
    found = json.loads(answer.out)["tuning"]
    assert found["best"]["params"]["k"] in (6, 12)
    for run in searched(copied.registry().search(kind="trial")):
        if run.tags[tag.TRIAL_STATE] == "complete":
            values = [run.metrics[f"validation_accuracy_seed_{seed}"] for seed in (0, 1, 2)]
            assert run.metrics["validation_accuracy"] == sorted(values)[1]
    words = shlex.split(found["command"])[1:]
    full = copied.registry().get(cli(*words, "--tracking-uri", copied.uri).run_id)
    assert float(full.params["momentum"]) == found["best"]["params"]["momentum"]
    assert int(full.params["k"]) == found["best"]["params"]["k"]


# Wrong input.

SPACES = {
    "unknown.yaml": "rate: {type: float, low: 0.1, high: 1}",
    "between.yaml": "k: {type: categorical, choices: [0, 7]}",
    "lr.yaml": "lr: {type: float, low: 0.001, high: 1}",
    "clock.yaml": "lr_k: {type: int, low: 0, high: 24}",
    "early.yaml": "lr_k: {type: int, low: 0, high: 12}",
}
REFUSED_EARLY = [
    ("--method finetun", "did you mean 'finetune'?", "known: finetune"),
    ("--method rewind --space clock.yaml --lr-k 6", "--lr-k 6 is fixed, and searched in clock.yaml", "leave one out"),
    ("--method finetune --space clock.yaml", "finetune has no setting 'lr_k'", "known: lr, iterations, momentum"),
    ("--trials 0", "0", "rewindctl tune --help"),
    ("--holdout 0", "--holdout 0 is outside (0, 1)", "such as 0.1"),
    ("--holdout 1", "--holdout 1 is outside (0, 1)", "such as 0.1"),
    ("--holdout nan", "--holdout nan is outside (0, 1)", "such as 0.1"),
    ("--pruner wilcoxon", "--pruner wilcoxon with --seeds 1 could never stop", "--seeds 4"),
    ("--pruner halving --seeds 3", "--pruner halving stops one training early", "wilcoxon"),
    ("--space missing.yaml", "space missing.yaml cannot be read", "give a YAML file"),
    ("--space unknown.yaml", "unknown.yaml, line 1: finetune has no setting 'rate'", "lr, iterations, momentum"),
    ("--space lr.yaml --lr 0.1", "--lr 0.1 is fixed, and searched in lr.yaml", "leave one out"),
    ("--storage sqlite:///a.db --jobs 2", "SQLite does not support several workers", "a journal file"),
]
REFUSED_LATE = [
    ("--holdout 0.999", "--holdout 0.999 leaves 1 training image, fewer than a batch of 32", "hold less out"),
    ("--holdout 0.0001", "--holdout 0.0001 holds 0 of 1000", "such as 0.1"),
    ("--method weight_rewind --space between.yaml", "k 7 is not a recorded rewind point", "recorded: 0, 6, 12"),
    ("--method weight_rewind --k 6", "--k 6 leaves nothing to search", "give --space FILE with k or momentum"),
    (
        "--method rewind --weights-k 6 --lr-k 0",
        "--weights-k 6 --lr-k 0 leaves nothing to search",
        "with weights_k or lr",
    ),
    ("--method rewind --weights-k 7 --no-replay", "iteration 7 of dense run", "recorded: 0, 6, 12, 24"),
    ("--method rewind --lr-k 24", "--lr-k 24 is the dense run's last iteration", "an earlier iteration"),
    ("--method rewind --space clock.yaml", "clock.yaml: lr_k 24 leaves nothing to train", "from 0 to 23"),
    ("--method rewind --space early.yaml", "rewind needs --weights-k", "recorded: 0, 6, 12, 24"),
    ("--weights-k 6", "--weights-k 6 has no meaning for finetune", "leave --weights-k out"),
    ("--method lr_rewind", "no default search space for lr_rewind", "give --space FILE with iterations or momentum"),
    ("--lr 0.01", "--lr 0.01 leaves nothing to search", "give --space FILE"),
    ("--k 6", "--k 6 has no meaning for finetune", "leave --k out"),
    ("--method weight_rewind --iterations 5", "--iterations 5 has no meaning for weight_rewind", "leave"),
    ("--storage nosuchdb://a/b", "the study storage nosuchdb://a/b cannot be used", "another path"),
    ("--storage file", "the study storage", "another path"),
]


def refuse(answer: Any, code: int, words: str, hint: str) -> None:
    lines = answer.err.splitlines()
    assert (answer.code, answer.out) == (code, ""), answer
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], answer.err
    assert words in lines[0], answer.err
    assert hint in lines[1], answer.err
    assert "defect" not in answer.err


@pytest.fixture
def spaces(tmp_path: Path) -> set[str]:
    for name, text in SPACES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "file").write_text("neither a journal\nnor a database\n")
    return {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("options", "words", "hint"), REFUSED_EARLY)
def test_a_request_wrong_in_itself_makes_nothing(
    cli: Cli, spaces: set[str], tmp_path: Path, options: str, words: str, hint: str
) -> None:
    refuse(cli("tune", "--parent", "abcdef", *shlex.split(options)), 2, words, hint)
    assert {path.name for path in tmp_path.iterdir()} - {"mlflow.db"} == spaces
    if "--jobs" not in options:
        assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(("options", "words", "hint"), REFUSED_LATE)
def test_a_request_that_does_not_fit_its_parent_makes_no_run(
    cli: Cli, chain: Chain, spaces: set[str], options: str, words: str, hint: str
) -> None:
    before = len(chain.registry().search())
    answer = cli("tune", "--parent", chain.prune, *shlex.split(options), "--tracking-uri", chain.uri)
    refuse(answer, 1 if "storage" in words else 2, words, hint)
    assert len(chain.registry().search()) == before


@pytest.mark.parametrize(("parent", "hint"), [("dense", "rewindctl prune --parent"), ("finetune", "rewindctl list")])
def test_only_a_mask_is_tuned(cli: Cli, chain: Chain, parent: str, hint: str) -> None:
    answer = cli("tune", "--parent", getattr(chain, parent), "--tracking-uri", chain.uri)
    refuse(answer, 2, "a prune run is needed", hint)


def test_a_name_of_another_search_is_refused(tuned: Tuned, cli: Cli) -> None:
    name = tuned.printed["study"]
    answer = cli(*tuned.line("--study", name, "--holdout", "0.2"))
    words = f"study '{name}' is another search: its holdout_fraction is 0.1, now 0.2"
    refuse(answer, 2, words, "another --study")


# The dashboard.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dashboard(tuned: Tuned) -> Iterator[str]:
    """optuna-dashboard on the journal that the search wrote, answering."""
    port = free_port()
    program = Path(sys.executable).with_name("optuna-dashboard")
    line = [str(program), str(tuned.journal), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, "the dashboard ended"
            try:
                fetch(f"{address}/api/studies")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def fetch(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_the_dashboard_opens_the_storage(tuned: Tuned, dashboard: str) -> None:
    (study,) = fetch(f"{dashboard}/api/studies")["study_summaries"]
    assert study["study_name"] == tuned.printed["study"]
    detail = fetch(f"{dashboard}/api/studies/{study['study_id']}")
    runs = {run.tags[tag.TRIAL]: run for run in searched(tuned.trials())}
    assert len(detail["trials"]) == len(runs)
    for trial in detail["trials"]:
        run = runs[str(trial["number"])]
        assert trial["state"] == "Complete"
        assert trial["values"] == [run.metrics["validation_accuracy"]]
        assert len(trial["intermediate_values"]) == 13


# Processes of their own, killed.

LONG = ("--iterations", "40", "--trials", "5", "--compare-seeds", "0")


def start(chain: Chain, *extra: str) -> Started:
    return Started(*long_line(chain), *extra)


def long_line(chain: Chain) -> list[str]:
    return ["tune", "--parent", chain.prune, *LONG, "--tracking-uri", chain.uri]


def rows(chain: Chain) -> list[dict[str, str]]:
    """The table of the finished search, without what a repetition changes: numbers and run IDs."""
    registry = chain.registry()
    (home,) = [run for run in registry.search(kind="tune") if run.finished]
    with registry.artifact(home, "trials.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key in ("state", "validation_accuracy", "last_step", "lr")}
            for row in csv.DictReader(file)
        ]


def wait_for_trials(chain: Chain, count: int, process: Started) -> None:
    while process.poll() is None and len(chain.registry().search(kind="trial")) < count:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_search_killed_and_interrupted_ends_as_the_unbroken_one(chain: Chain, tmp_path: Path) -> None:
    broken, whole = copy_chain(chain, tmp_path / "broken"), copy_chain(chain, tmp_path / "whole")
    for number, count in ((signal.SIGKILL, 2), (signal.SIGINT, 4)):
        process = start(broken)
        wait_for_trials(broken, count, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number), err
    assert run_command(long_line(broken)) == 0
    assert run_command(long_line(whole)) == 0
    assert rows(broken) == rows(whole)
    assert len(rows(broken)) == 5
    runs = broken.registry().search(kind="trial")
    assert not [run for run in runs if run.status == "RUNNING"]
    assert [run.status for run in broken.registry().search(kind="tune")] == ["FINISHED"], "one run, gone on with"
    fingerprints = [run.fingerprint for run in runs if run.finished]
    assert len(fingerprints) == len(set(fingerprints)), "no trial appears twice"


@pytest.mark.slow
def test_two_jobs_and_a_second_command_make_exactly_the_trials_asked_for(chain: Chain, tmp_path: Path) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    first = start(copied, "--jobs", "2")
    wait_for_trials(copied, 1, first)
    second = start(copied)
    answers = [process.communicate(timeout=300) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], answers
    assert answers[0][0] == answers[1][0], "both print the run of the one search"
    assert len(rows(copied)) == 5
    runs = [run for run in searched(copied.registry().search(kind="trial")) if run.finished]
    assert len(runs) == len({run.fingerprint for run in runs}) == 5
    assert run_command(["verify", "--all", "--tracking-uri", copied.uri, "--quiet"]) == 0


@pytest.mark.slow
def test_on_one_gpu_the_workers_are_lanes_of_one_process_with_the_results_of_one(chain: Chain, tmp_path: Path) -> None:
    """Both share the held-out data and the step; each search trial of both has the curve that it has alone."""
    found = []
    for jobs in ("1", "2"):
        copied = copy_chain(chain, tmp_path / jobs)
        line = (*long_line(copied), "--jobs", jobs, "--pruner", "none", "--update-step", "fused")
        process = Started(*line, first=in_lanes)
        assert process.wait(START_SECONDS) == 0, process.err
        registry = copied.registry()
        runs = [run for run in searched(registry.search(kind="trial")) if run.finished]
        assert len({run.tags[tag.OWNER] for run in runs}) == 1
        assert {run.tags[tag.STEP] for run in runs} == {"fused"}
        found.append({run.fingerprint: registry.curve(run, "validation_accuracy") for run in runs})
    one, two = found
    assert len(one) == len(two) == 5
    assert len(both := one.keys() & two.keys()) > 1
    assert [one[key] for key in both] == [two[key] for key in both]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_command_ends_so_do_its_workers(number: signal.Signals, chain: Chain, tmp_path: Path) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    process = start(copied, "--jobs", "2", "--iterations", "100000")

    def owners() -> dict[str, str]:
        """The process of each trial and the state of its run."""
        return {run.tags[tag.OWNER]: run.status for run in copied.registry().search(kind="trial")}

    def at_work() -> int:
        """Trials that have a point of their curve: whoever ends one from here on records it."""
        return sum(bool(run.metrics) for run in copied.registry().search(kind="trial"))

    while process.poll() is None and at_work() < 2:
        time.sleep(0.1)
    helper = next(owner for owner in owners() if owner.split(":")[1] != str(process.pid))
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    deadline = time.monotonic() + 100
    while not is_gone(helper, time.time()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert is_gone(helper, time.time())
    assert owners()[helper] == "KILLED"
    if number == signal.SIGINT:
        assert set(owners().values()) == {"KILLED"}


def test_damage_to_a_trial_is_found(chain: Chain, tmp_path: Path, cli: Cli) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    line = ("tune", "--parent", copied.prune, *SHORT, "--compare-seeds", "0", "--trials", "1")
    assert cli(*line, "--tracking-uri", copied.uri).code == 0
    (trial,) = copied.registry().search(kind="trial")
    folder = Path(unquote(urlsplit(trial.artifact_uri).path))
    (folder / "spec.json").write_text("{}")
    answer = cli("verify", trial.run_id, "--tracking-uri", copied.uri)
    assert answer.code == 1
    assert "spec.json" in answer.out
