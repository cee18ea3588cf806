"""The command of a spec parses back to its values, whatever the names."""

import shlex

from conftest import Chain

from rewindctl.commands import command_of
from rewindctl.pipeline.labels import retrain_command
from rewindctl.specs import DenseSpec, RetrainSpec


def test_names_are_quoted_for_the_shell(chain: Chain) -> None:
    spec = chain.registry().get(chain.dense).spec
    assert isinstance(spec, DenseSpec)
    words = shlex.split(command_of(spec.model_copy(update={"model": "my net; rm -r .", "dataset": "it's"}), None))
    assert words[:6] == ["rewindctl", "train-dense", "--model", "my net; rm -r .", "--dataset", "it's"]


def test_each_kind_has_its_command(chain: Chain) -> None:
    registry = chain.registry()
    specs = [registry.get(run).spec for run in (chain.dense, chain.prune, chain.lr_rewind)]
    commands = [command_of(spec, "abcdef").split()[1] for spec in specs]
    assert commands == ["train-dense", "prune", "retrain"]
    assert isinstance(specs[2], RetrainSpec)
    assert command_of(specs[2], "abcdef") == retrain_command(specs[2], "abcdef")
