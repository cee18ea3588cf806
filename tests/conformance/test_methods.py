"""Laws of every retraining method: what is recorded of a run asks for it again, and for no other.

One more method than the catalog has is walked: of a plug-in, with a rate of its own that it does not take.
"""

import itertools
import shlex
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer
from conftest import Chain, Cli
from tuning.test_space import dense

from rewindctl.api.stages import RetrainKeywords, RunOptions
from rewindctl.cli import app
from rewindctl.cli.choices import Retraining
from rewindctl.commands import retrain_command
from rewindctl.errors import UsageError
from rewindctl.options import Option
from rewindctl.paper.study import MethodEntry
from rewindctl.pipeline.labels import retrain_label
from rewindctl.pipeline.requests import retrain_child
from rewindctl.registry import records as tag
from rewindctl.rewinding.methods import OPTIONS, Baseline, RetrainOptions, RetrainPlan, methods, register_method
from rewindctl.specs import PruneSpec, RetrainSpec

DENSE = dense(0, 6, 12, 24)
MASK = PruneSpec(parent_fingerprint=DENSE.fingerprint(), sparsity=0.5)
NAMES = (*methods, "gentle")
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


@pytest.fixture(scope="module", autouse=True)
def gentle() -> Iterator[None]:
    """All that a new method is."""

    @register_method("gentle", takes=("iterations",), label="gentle tuning")
    def gentle(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
        length = options.iterations or dense.iterations // 2
        return RetrainPlan(dense.iterations, 0, length, dense.iterations, constant_lr=0.01)

    yield
    del methods._entries["gentle"]


def values(option: Option) -> list[Any]:
    """The default, which is not given, and some others; of the dense run's momentum, its own too."""
    if not option.number:
        return list(get_args(option.kind))
    return [None, *((0, 5, 24) if option.whole else (1e-5, 0.3, 0.9))]


def askable(method: str) -> Iterator[RetrainOptions]:
    """Every way to ask for a method that it does not refuse."""
    taken = [name for name, one in OPTIONS.items() if one.every or name in methods[method].takes]
    for chosen in itertools.product(*(values(OPTIONS[name]) for name in taken)):
        options = RetrainOptions(method=method, **dict(zip(taken, chosen, strict=True)))
        try:
            spec_of(options)
        except UsageError:
            continue
        yield options


def spec_of(options: RetrainOptions) -> RetrainSpec:
    return retrain_child(MASK, DENSE, options)


def parsed(line: str) -> RetrainOptions:
    """What the command line makes of a command."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("rewindctl", "retrain")
    return Retraining().collected(dict(COMMANDS[name].make_context(name, words).params))


@pytest.mark.parametrize("method", NAMES)
def test_the_recorded_command_asks_for_the_same_retraining(method: str) -> None:
    ways = list(askable(method))
    given = {name for options in ways for name in options.given}
    fixed = {"data_order"} if all(spec_of(one).weights_iteration == DENSE.iterations for one in ways) else set()
    assert given == {*methods[method].takes, *(name for name, one in OPTIONS.items() if one.every)} - fixed
    for options in ways:
        spec = spec_of(options)
        assert spec_of(parsed(retrain_command(spec, "abcdef"))).fingerprint() == spec.fingerprint()


@pytest.mark.parametrize("method", NAMES)
def test_a_label_tells_two_retrainings_apart(method: str) -> None:
    specs = {spec.fingerprint(): spec for spec in map(spec_of, askable(method))}
    assert len({retrain_label(spec) for spec in specs.values()}) == len(specs)


@pytest.mark.parametrize("method", NAMES)
def test_an_option_that_a_method_does_not_take_is_refused(method: str) -> None:
    options = next(askable(method))
    for name, one in OPTIONS.items():
        if not one.every and name not in methods[method].takes:
            asked = options.given | {name: values(one)[1]}
            asked |= {"iterations": 5} if name == "iterations" else {}
            with pytest.raises(UsageError) as caught:
                spec_of(RetrainOptions(method=method, **asked))
            assert caught.value.message == f"{one.flag} {asked[name]} has no meaning for {method}"


def test_a_method_of_one_function_is_whole(copied_chain: Chain, cli: Cli) -> None:
    asked = ("retrain", "--tracking-uri", copied_chain.uri, "--parent", copied_chain.prune, "--method", "gentle")
    refused = cli(*asked, "--lr", "0.1")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: --lr 0.1 has no meaning for gentle")
    made = cli(*asked, "--iterations", "5")
    run = copied_chain.registry().get(made.run_id)
    assert isinstance(run.spec, RetrainSpec)
    assert (run.spec.iterations, run.spec.constant_lr) == (5, 0.01)
    assert run.name == "gentle T=5 5x s0 resnet8-digits"
    line = run.tags[tag.NOTE].split("```")[1].replace("\\\n", " ")
    assert line.split() == f"rewindctl retrain --parent {copied_chain.prune} --method gentle --iterations 5".split()
    again = cli(*shlex.split(line)[1:], "--tracking-uri", copied_chain.uri)
    assert again.run_id == run.run_id


def test_a_plan_that_no_command_asks_for_is_refused() -> None:
    @register_method("twice", takes=("iterations",))
    def twice(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
        return RetrainPlan(dense.iterations, 0, 2 * (options.iterations or 1), dense.iterations)

    try:
        with pytest.raises(UsageError, match="method twice plans a retraining that"):
            spec_of(RetrainOptions(method="twice", iterations=5))
    finally:
        del methods._entries["twice"]
    with pytest.raises(ValueError, match="method 'wrong' cannot take 'momentum'"):
        register_method("wrong", takes=("momentum",))


# The places that types keep apart from the declarations: they may not differ from them.


def test_the_python_api_takes_every_option() -> None:
    hints = get_type_hints(RetrainKeywords)
    own = {name: kind for name, kind in hints.items() if name not in get_type_hints(RunOptions)}
    assert own == {name: one.kind for name, one in OPTIONS.items()}


def test_specs_and_study_files_have_the_options_of_the_same_names() -> None:
    assert {one.result or name for name, one in OPTIONS.items()} <= set(RetrainSpec.model_fields)
    for kind in (RetrainSpec, MethodEntry):
        fields = {name: one for name, one in kind.model_fields.items() if name in OPTIONS and not one.is_required()}
        assert {name: one.default for name, one in fields.items()} == {name: OPTIONS[name].default for name in fields}
    assert set(MethodEntry.model_fields) == {"method", *OPTIONS} - {"momentum"}


def test_a_method_registered_as_earlier_versions_wanted_is_refused_in_one_line() -> None:
    methods.register("of-earlier-versions")(lambda request: None)  # type: ignore[arg-type]
    try:
        with pytest.raises(UsageError, match="is registered in the form of an earlier version") as caught:
            RetrainOptions(method="of-earlier-versions")
        assert "register_method" in caught.value.hint
    finally:
        methods._entries.pop("of-earlier-versions")
