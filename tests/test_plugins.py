"""A package of someone else's, installed beside ours: its network and data from the real command line."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rewindctl.registry import Registry

ROOT = Path(__file__).parents[1]
THEIRS = '''
    import numpy as np
    from torch import nn
    from rewindctl import register_dataset, register_model
    from rewindctl.pruning import criteria

    print("an import that talks")

    @register_model("theirs")
    class Theirs(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.stem = nn.Conv2d(config.in_channels, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.hidden = nn.Linear(8, 16)
            self.head = nn.Linear(16, config.classes)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu().mean(dim=(2, 3))
            return self.head(self.hidden(x).relu())

    @criteria.register("shrunk")
    def shrunk(weights):
        """Small weights with small gradients first."""
        return weights.value.abs() + weights.gradient.abs()

    @register_dataset("squares")
    def squares(data_dir):
        """Dark and bright squares."""
        images = np.random.RandomState(0).randint(0, 100, (96, 6, 5, 3), dtype=np.uint8)
        labels = np.arange(96) % 2
        images[labels == 1] += 100
        return {"x_train": images[:64], "y_train": labels[:64], "x_test": images[64:], "y_test": labels[64:]}
'''


def install(folder: Path, distribution: str, entry: str, **modules: str) -> None:
    """What pip leaves of a package: its modules and its `.dist-info`."""
    info = folder / f"{distribution}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[rewindctl.plugins]\n{entry}\n")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: one that works and one that does not."""
    folder = tmp_path / "site"
    install(folder, "their-package", "theirs = their_module", their_module=THEIRS)
    install(folder, "broken", "b = broken_module:add", broken_module="def add():\n    raise OSError('no\\nlicence')\n")
    return folder


def rewindctl(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))
    line = [sys.executable, "-m", "rewindctl", *arguments]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def made(site: Path, *arguments: str) -> str:
    """The run that a command made: stdout holds nothing else, though the package prints when it is imported."""
    done = rewindctl(site, *arguments, "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 33
    return done.stdout.strip()


@pytest.mark.slow
def test_their_network_and_data_go_through_the_whole_chain(site: Path, store: Path) -> None:
    line = ("--model", "theirs", "--dataset", "squares", "--recipe", "digits", "--iterations", "12")
    dense = made(site, "train-dense", *line, "--batch-size", "16", "--rewind-points", "4")
    mask = made(site, "prune", "--parent", dense, "--compression", "4", "--criterion", "shrunk")
    retrained = made(site, "retrain", "--parent", mask, "--method", "weight_rewind", "--k", "4")
    registry = Registry(f"sqlite:///{store}")
    chain = registry.lineage(registry.get(retrained))
    assert [run.run_id for run in chain] == [dense, mask, retrained]
    assert {run.name.split()[-1] for run in chain} == {"theirs-squares"}
    assert chain[1].metrics["nonzero_kernel_parameters"] == round((8 * 3 * 9 + 8 * 16 + 16 * 2) / 4)


@pytest.mark.slow
def test_their_names_are_listed_and_what_does_not_load_is_named(site: Path) -> None:
    listed = rewindctl(site, "data", "list")
    assert "squares" in listed.stdout
    assert "plugin 'b' of broken 1.2 did not load: OSError: no licence" in listed.stderr
    unknown = rewindctl(site, "train-dense", "--model", "thiers", "--dataset", "squares")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    error, hint = unknown.stderr.splitlines()[-2:]
    assert error.startswith("error: unknown model 'thiers': did you mean 'theirs'?; plugin 'b' of broken 1.2 did not")
    assert "pip uninstall broken" in hint
    assert "theirs" in hint


@pytest.mark.slow
def test_plugins_are_not_loaded_for_help_nor_for_names_of_ours(site: Path) -> None:
    for arguments in (
        ["--help"],
        ["train-dense", "--help"],
        ["train-dense", "--model", "resnet9", "--dataset", "digits"],
    ):
        assert "an import that talks" not in rewindctl(site, *arguments).stderr


PROBE = """
    from rewindctl import plugins
    from rewindctl.models import models
    from rewindctl.training.recipes import recipes

    before = (models["resnet8"], recipes["digits"])
    failures = plugins.load_plugins()
    assert failures is plugins.load_plugins()
    assert "resnet8" not in models._entries, "a plugin took a name of ours"
    assert recipes["digits"] is before[1]
    print(*(f"{failure.name}|{failure.reason}" for failure in failures), sep="\\n")
"""


def test_a_name_of_ours_cannot_be_taken(tmp_path: Path) -> None:
    site = tmp_path / "site"
    taken = "from rewindctl.models import models\n\ndef add():\n    models.register('resnet8')(print)\n"
    again = "from rewindctl.training.recipes import recipes\nrecipes.register('digits')(None)\n"
    install(
        site, "greedy", "a = greedy_one:add\nb = greedy_two\nc = no_such_module", greedy_one=taken, greedy_two=again
    )
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-c", textwrap.dedent(PROBE)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "a|ValueError: model 'resnet8' is registered twice"
    assert second == "b|ValueError: recipe 'digits' is registered twice"
    assert third.startswith("c|ModuleNotFoundError: No module named 'no_such_module'")
