"""Iterative pruning: the paper's grids, masks that only grow, a walk that goes on where it was."""

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import TINY, Cli
from hypothesis import assume, given
from hypothesis import strategies as st

from rewindctl.cli import run as run_command
from rewindctl.errors import UsageError
from rewindctl.pipeline.plan import MOST_LEVELS, sparsity_grid
from rewindctl.pruning import Mask
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag

PAPER_02 = (0.2, 0.36, 0.488, 0.59, 0.672, 0.738, 0.79, 0.832, 0.866, 0.893, 0.914, 0.931, 0.945, 0.956)
PAPER_03 = (0.3, 0.51, 0.657, 0.76, 0.832, 0.882, 0.918, 0.942, 0.96, 0.972, 0.98, 0.986, 0.99)
KERNELS = 77_072
WEIGHT, LR = ("--method", "weight_rewind", "--k", "6"), ("--method", "lr_rewind")


@pytest.mark.parametrize(("step", "grid"), [(0.2, PAPER_02), (0.3, PAPER_03)])
def test_the_grids_are_those_of_the_paper(step: float, grid: tuple[float, ...]) -> None:
    assert sparsity_grid(step, grid[-1]) == grid
    assert sparsity_grid(0.2, 0.893) == PAPER_02[:10]


fractions = st.floats(0.01, 0.999)


@given(step=fractions, until=fractions)
def test_every_grid_grows_and_ends_with_the_level_that_reaches_its_end(step: float, until: float) -> None:
    assume((1 - step) ** MOST_LEVELS <= 1 - until)
    grid = sparsity_grid(step, until)
    assert all(0 < level < 1 for level in grid)
    assert all(after > before for before, after in pairwise(grid))
    assert grid[-1] > until - 0.0005
    assert all(level < until for level in grid[:-1])
    for number, level in enumerate(grid, start=1):
        assert level == pytest.approx(1 - (1 - step) ** number, abs=0.0005)


@pytest.mark.parametrize(("step", "until"), [(0.02, 0.98), (0.025, 0.99), (0.9, 0.999999)])
def test_levels_close_together_stay_apart(step: float, until: float) -> None:
    grid = sparsity_grid(step, until)
    assert list(grid) == sorted(set(grid))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.2, 1.5, float("nan"), float("inf")])
def test_what_is_no_fraction_is_refused_by_its_option(value: float) -> None:
    with pytest.raises(UsageError, match=r"--step .* is outside"):
        sparsity_grid(value, 0.9)
    with pytest.raises(UsageError, match=r"--until .* is outside"):
        sparsity_grid(0.2, value)


def test_a_walk_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs over 200 levels to reach 0\.9"):
        sparsity_grid(0.001, 0.9)


@dataclass(frozen=True)
class Walks:
    """Both walks to 0.75 in halves from one dense run; `first` is what an earlier walk to 0.5 made."""

    registry: Registry
    dense: RunRecord
    first: list[RunRecord]
    weight_rewind: list[RunRecord]
    lr_rewind: list[RunRecord]
    one_shot: RunRecord

    def mask(self, run: RunRecord) -> Mask:
        return Mask.load(self.registry.artifact(run, "mask/mask.safetensors"))

    def levels(self, method: str) -> list[RunRecord]:
        """The last network's lineage without the dense run: mask, network, mask, network."""
        runs: list[RunRecord] = getattr(self, method)
        return self.registry.lineage(runs[-1])[1:]


@pytest.fixture(scope="module")
def walks(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Walks:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('walks') / 'mlflow.db')}"
    registry = Registry(uri)

    def make(*arguments: str) -> list[RunRecord]:
        """The runs that a command makes, oldest first."""
        before = {run.run_id for run in registry.search()}
        assert run_command([*arguments, "--tracking-uri", uri, "--quiet"]) == 0
        return [run for run in registry.search() if run.run_id not in before]

    (dense,) = make("train-dense", *TINY)
    halves = ("iterate", "--parent", dense.run_id, "--step", "0.5", "--until")
    first = make(*halves, "0.5", *WEIGHT)
    weight_rewind, lr_rewind = make(*halves, "0.75", *WEIGHT), make(*halves, "0.75", *LR)
    (one_shot,) = make("prune", "--parent", dense.run_id, "--sparsity", "0.75")
    return Walks(registry, dense, first, weight_rewind, lr_rewind, one_shot)


@pytest.mark.parametrize("method", ["weight_rewind", "lr_rewind"])
def test_each_level_is_the_child_of_the_network_retrained_before(walks: Walks, method: str) -> None:
    levels = walks.levels(method)
    assert [run.kind for run in levels] == ["prune", "retrain"] * 2
    assert [run.parent_id for run in levels] == [walks.dense.run_id, *(run.run_id for run in levels[:-1])]
    assert {run.dense_run_id for run in levels} == {walks.dense.run_id}


@pytest.mark.parametrize("method", ["weight_rewind", "lr_rewind"])
def test_masks_only_grow_and_have_exact_counts(walks: Walks, method: str) -> None:
    first, second = (walks.mask(run) for run in walks.levels(method)[::2])
    assert (first.removed, second.removed) == (KERNELS // 2, 3 * KERNELS // 4)
    assert second.covers(first)
    assert not first.covers(second)


def test_weight_rewinding_goes_back_to_the_original_dense_run_at_every_level(walks: Walks) -> None:
    networks = walks.levels("weight_rewind")[1::2]
    assert [run.tags[tag.WEIGHTS_FROM] for run in networks] == [f"{walks.dense.run_id}@6"] * 2


def test_lr_rewinding_goes_on_from_the_network_retrained_before(walks: Walks) -> None:
    first, second = walks.levels("lr_rewind")[1::2]
    assert first.tags[tag.WEIGHTS_FROM] == f"{walks.dense.run_id}@24"
    assert second.tags[tag.WEIGHTS_FROM] == f"{first.run_id}@24"


def test_a_later_mask_ranks_the_retrained_weights(walks: Walks) -> None:
    """It is not what one shot to the same sparsity removes."""
    one_shot, iterated = walks.mask(walks.one_shot), walks.mask(walks.levels("lr_rewind")[2])
    assert one_shot.removed == iterated.removed
    assert not one_shot.covers(iterated)


def test_an_interrupted_walk_goes_on_with_what_is_there(walks: Walks) -> None:
    assert [run.kind for run in walks.first] == ["prune", "retrain"]
    assert [run.kind for run in walks.weight_rewind] == ["prune", "retrain"]
    assert walks.levels("weight_rewind") == [*walks.first, *walks.weight_rewind]


def test_both_methods_share_the_first_mask(walks: Walks) -> None:
    assert [run.kind for run in walks.lr_rewind] == ["retrain", "prune", "retrain"]
    assert walks.levels("lr_rewind")[0] == walks.first[0]


def test_a_first_level_is_the_one_shot_result(walks: Walks, cli: Cli) -> None:
    line = ("--parent", walks.dense.run_id, "--sparsity", "0.5", "--tracking-uri", walks.registry.uri)
    assert cli("retrain", *line, *LR).run_id == walks.lr_rewind[0].run_id


def test_a_finished_walk_is_found_as_a_whole(walks: Walks, cli: Cli) -> None:
    before = len(walks.registry.search())
    line = ("--parent", walks.dense.run_id, "--step", "0.5", "--until", "0.75", "--tracking-uri", walks.registry.uri)
    answer = cli("iterate", *line, *WEIGHT)
    assert answer.out.splitlines() == [run.run_id for run in walks.levels("weight_rewind")[1::2]]
    assert len(walks.registry.search()) == before
