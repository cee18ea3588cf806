"""The world that commands run in: folders that can each be a disk of its own, stores to start from, the commands."""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from soak import disks
from soak.forks import Child, Ended, Place, Work, command, fork, fresh, import_all, modules_of

PASSING = r"home/mlruns/|tmp/[a-z0-9_]{8}$|cache/matplotlib/|.*\.lock[0-9a-f-]+\.rename$"
PARTS = ("home", "state", "cache", "tmp", "out")  # the store with its artifacts; the folders that XDG names; TMPDIR
DENSE = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--seed", "0", "--iterations", "24")
DENSE += ("--batch-size", "32", "--evaluate-every", "4", "--rewind-points", "6,12", "--checkpoint-every", "0")
POINT = ("--checkpoint-every", "0")
STUDY = {
    "schema": 1,
    "name": "small",
    "title": "Small",
    "panels": [
        {
            "model": "resnet8",
            "dataset": "digits",
            "iterations": 8,
            "schedule": "one_shot",
            "sparsities": [0.5],
            "methods": [{"method": "finetune"}, {"method": "weight_rewind", "k": 2}],
        }
    ],
}


@dataclass(frozen=True)
class Story:
    """A command to break: its arguments, the store that it starts from, the parts of the world that it writes to."""

    name: str
    arguments: tuple[str, ...]
    start: str
    writes: tuple[str, ...] = ("home", "tmp")


class World:
    """One folder, always at the same path, so that copies of a store keep their addresses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user = 0
        self._modules = root / "modules.json"
        for part in PARTS:
            self.part(part).mkdir(parents=True, exist_ok=True)

    def part(self, name: str) -> Path:
        return self.root / "world" / name

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.part('home') / 'mlflow.db'}"

    def place(self) -> Place:
        """Where a command runs now."""
        settings = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "REWINDCTL"))}
        settings |= {
            "XDG_STATE_HOME": str(self.part("state")),
            "XDG_CACHE_HOME": str(self.part("cache")),
            "TMPDIR": str(self.part("tmp")),
            "HOME": str(self.part("cache")),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        (self.root / "talk").mkdir(exist_ok=True)
        return Place(self.part("home"), settings, self.root / "talk" / "child", self.user)

    def start(self, arguments: tuple[str, ...], fault: tuple[int, signal.Signals] | None = None) -> Child:
        """The command, forked."""
        return fork(command(arguments), self.place(), fault)

    def start_fresh(self, arguments: tuple[str, ...]) -> Child:
        """The command in a process that imports everything itself."""
        return fresh(arguments, self.place())

    def do(self, work: Work, look: Callable[[], None] = lambda: None) -> Ended:
        """Anything in a process of its own, to its end."""
        return fork(work, self.place()).end(look)

    def run(self, arguments: tuple[str, ...], look: Callable[[], None] = lambda: None) -> Ended:
        """The command to its end."""
        return self.do(command(arguments), look)

    def prepare(self, *arguments: str) -> str:
        """A command that must end well, its modules imported here afterwards; its first line of output."""
        ended = self.do(modules_of(command(arguments), self._modules))
        if ended.code:
            raise RuntimeError(f"rewindctl {' '.join(arguments)}: exit code {ended.code}: {ended.err}")
        import json

        # A search's too: one that becomes another user may not be allowed to read Python's files any more.
        import_all([*json.loads(self._modules.read_text()), "rewindctl.tuning.study"])
        return (ended.out.splitlines() or [""])[0]

    def keep(self, name: str) -> None:
        """Keep the world as it is under a name."""
        for part in PARTS:
            shutil.copytree(self.part(part), self.root / "kept" / name / part)

    def restore(self, name: str) -> None:
        """The world as it was kept."""
        self.clear()
        for part in PARTS:
            shutil.copytree(self.root / "kept" / name / part, self.part(part), dirs_exist_ok=True)

    def clear(self) -> None:
        """Empty folders; a disk that is mounted on one stays."""
        for part in PARTS:
            for path in self.part(part).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def files(self) -> set[str]:
        """Every file by its path, but for artifacts, and what others have for a moment and a kill may leave.

        That is Python's trial of whether TMPDIR can be written to, Optuna's lock on its way out, which goes with a
        later search, and Matplotlib's list of the fonts here.
        """
        found = (path for part in PARTS for path in self.part(part).rglob("*") if not path.is_dir())
        names = {str(path.relative_to(self.root / "world")) for path in found}
        return {name for name in names if not re.match(PASSING, name)}


@dataclass
class Stage:
    """A world with stores to start from, and the stories that start from them."""

    world: World
    no_disks: str = ""  # why there can be no small disks
    alone: bool = False  # root only in a namespace of its own
    stories: dict[str, Story] = field(default_factory=dict)

    def build(self) -> None:
        """Make every store once, unbroken. Commands take some seconds in all."""
        world = self.world
        world.clear()
        world.keep("nothing")
        world.prepare("init")
        world.keep("empty")
        dense = world.prepare(*DENSE)
        world.keep("dense")
        prune = world.prepare("prune", "--parent", dense, "--compression", "5")
        world.keep("prune")
        retrain = {method: ("retrain", "--parent", prune, *line, *POINT) for method, line in METHODS.items()}
        for line in retrain.values():
            world.prepare(*line)
        bundle = world.root / "all.bundle"
        world.prepare("registry", "export", str(bundle))
        world.keep("whole")
        (world.root / "study.yaml").write_text(yaml.safe_dump(STUDY))
        _write_images(world.root / "images.npz")
        out = str(world.part("out"))
        self._add("train-dense", "empty", DENSE, "state")
        self._add("prune", "dense", ("prune", "--parent", dense, "--compression", "5"))
        for method, line in retrain.items():
            self._add(f"retrain {method}", "prune", line, "state")
        iterate = ("iterate", "--parent", dense, "--method", "lr_rewind", "--step", "0.2", "--until", "0.36", *POINT)
        self._add("iterate", "dense", iterate, "state")
        tune = ("tune", "--parent", prune, "--trials", "3", "--iterations", "6", "--compare-seeds", "1")
        self._add("tune", "prune", (*tune, "--pruner", "none"), "state")
        reproduce = ("reproduce", str(world.root / "study.yaml"), "--trials", "1", "--output", f"{out}/plots", *POINT)
        self._add("reproduce", "empty", reproduce, "state", "out")
        self._add("registry export", "whole", ("registry", "export", f"{out}/all.bundle", "--overwrite"), "out")
        self._add("registry import", "empty", ("registry", "import", str(bundle)))
        self._add("compare --log", "whole", ("compare", "--report", "--log", "--output", f"{out}/plots"), "out")
        self._add("data import", "empty", ("data", "import", "spots", str(world.root / "images.npz")), "cache")
        self._add("init", "nothing", ("init",))

    def _add(self, name: str, start: str, arguments: tuple[str, ...], *writes: str) -> None:
        parts = ("cache",) if name == "data import" else ("home", "tmp", *writes)
        self.stories[name] = Story(name, (*arguments, "--quiet"), start, parts)


METHODS = {
    "finetune": ("--method", "finetune"),
    "weight_rewind": ("--method", "weight_rewind", "--k", "6"),
    "lr_rewind": ("--method", "lr_rewind"),
    "rewind": ("--method", "rewind", "--weights-k", "6", "--lr-k", "12"),
}


def _write_images(path: Path) -> None:
    """A data set of spots: 64 images of 12x12 in 4 classes."""
    "".encode("cp437")  # loads what zipfile decodes names with, which another user may not be able to read
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 12, 12, 1), dtype=np.uint8)
    labels = np.arange(64) % 4
    np.savez(path, x_train=images[:48], y_train=labels[:48], x_test=images[48:], y_test=labels[48:])


_stage: list[Stage] = []


def shared() -> Stage:
    """The stage of this process, built when it is first needed, in memory where that is possible."""
    if not _stage:
        user = os.getuid()
        reason = disks.enter()
        memory = Path("/dev/shm")
        root = tempfile.mkdtemp(prefix="rewindctl-soak-", dir=memory if os.access(memory, os.W_OK) else None)
        Path(root).chmod(0o755)
        _stage.append(Stage(World(Path(root)), reason, user != 0 and not reason))
        atexit.register(_remove, Path(root), os.getpid())
        _stage[0].build()
    return _stage[0]


def _remove(root: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        shutil.rmtree(root, ignore_errors=True)


def quiet_threads() -> None:
    """One thread a process, before anything that has threads is imported: a fork takes none of them along."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    assert "torch" not in sys.modules
