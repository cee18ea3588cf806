"""A point in training as a file: the same bytes for the same state, refused when it is not whole."""

import contextlib
import json
import random
import signal
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rewindctl.errors import IntegrityError
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.rewinding.checkpoints import FORMAT, PARTS, UNPACKED_FORMAT, TrainState
from rewindctl.system.processes import forget_interrupts, interrupt


def network() -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)


def full() -> TrainState:
    """A state with something in every part."""
    value = network()
    value(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    state = TrainState.initial(value)
    return replace(state, momentum={n: p + 1 for n, p in state.parameters.items()}, iteration=7, data_position=31)


def small() -> TrainState:
    return TrainState(
        {"w": torch.tensor([[1.0, -0.0], [float("nan"), 3.0]])},
        {"count": torch.tensor(5), "mean": torch.zeros(3)},
        {"w": torch.ones(2, 2)},
        iteration=3,
        data_position=9,
    )


def changed(state: TrainState, part: str, tensors: dict[str, torch.Tensor]) -> TrainState:
    fields: dict[str, Any] = {part: tensors}
    return replace(state, **fields)


def saved(state: TrainState, path: Path) -> bytes:
    state.save(path)
    return path.read_bytes()


def test_a_loaded_state_is_the_saved_one_to_the_byte(tmp_path: Path) -> None:
    state = full()
    first = saved(state, tmp_path / "state")
    loaded = TrainState.load(tmp_path / "state")
    assert (loaded.iteration, loaded.data_position) == (7, 31)
    for part in PARTS:
        tensors, wanted = getattr(loaded, part), getattr(state, part)
        assert set(tensors) == set(wanted)
        assert all(torch.equal(tensors[n], t) and tensors[n].dtype == t.dtype for n, t in wanted.items())
    assert saved(loaded, tmp_path / "again") == first


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    """Whatever the order of the names and of the values in memory."""
    state = full()
    turned = replace(state, parameters=dict(reversed(state.parameters.items())))
    shuffled = {
        name: p.to(memory_format=torch.channels_last) if p.dim() == 4 else p for name, p in state.momentum.items()
    }
    first = saved(state, tmp_path / "a")
    assert saved(turned, tmp_path / "b") == first
    assert saved(replace(state, momentum=shuffled), tmp_path / "c") == first


@pytest.mark.parametrize("part", PARTS)
def test_any_difference_is_another_file(tmp_path: Path, part: str) -> None:
    state = full()
    first = saved(state, tmp_path / "a")
    tensors = {name: tensor.clone() for name, tensor in getattr(state, part).items()}
    next(iter(tensors.values())).flatten()[-1] += 1
    assert saved(changed(state, part, tensors), tmp_path / "b") != first
    assert saved(replace(state, iteration=8), tmp_path / "c") != first
    assert saved(replace(state, data_position=32), tmp_path / "d") != first


def test_not_a_number_and_minus_zero_survive(tmp_path: Path) -> None:
    first = saved(small(), tmp_path / "a")
    assert saved(TrainState.load(tmp_path / "a"), tmp_path / "b") == first


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = saved(small(), tmp_path / "state")
    for length in range(len(whole)):
        (tmp_path / "state").write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="state"):
            TrainState.load(tmp_path / "state")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_reads_as_a_state(tmp_path: Path, position: float, value: int) -> None:
    """Never another error: the digest in the manifest tells the rest."""
    content = bytearray(saved(small(), tmp_path / "state"))
    content[int(position * len(content))] = value
    (tmp_path / "state").write_bytes(content)
    with contextlib.suppress(IntegrityError):
        assert isinstance(TrainState.load(tmp_path / "state"), TrainState)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"iteration": 1}',
        '{"iteration": null, "data_position": 0}',
        '{"iteration": "x", "data_position": 0}',
        '{"iteration": Infinity, "data_position": 0}',
        '{"iteration": NaN, "data_position": 0}',
        '{"iteration": 1.5, "data_position": 0}',
        '{"iteration": -1, "data_position": 0}',
        '{"iteration": 0, "data_position": -1}',
        "[" * 100_000,
    ],
)
def test_metadata_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"parameters/w": torch.zeros(2)}, tmp_path / "state", metadata={FORMAT: text})
    with pytest.raises(IntegrityError):
        TrainState.load(tmp_path / "state")


def test_notes_come_back_and_are_part_of_the_bytes(tmp_path: Path) -> None:
    plain = saved(small(), tmp_path / "plain")
    small().save(tmp_path / "noted", {"evaluations": [1, 0.5, None]})
    assert TrainState.notes(tmp_path / "noted") == {"evaluations": [1, 0.5, None]}
    assert (tmp_path / "noted").read_bytes() != plain
    assert saved(TrainState.load(tmp_path / "noted"), tmp_path / "again") == plain
    with pytest.raises(IntegrityError, match="plain"):
        TrainState.notes(tmp_path / "plain")


@pytest.mark.parametrize("notes", ["5", "null", '"text"', "[1]", "[" * 100_000])
def test_notes_of_another_form_are_refused(tmp_path: Path, notes: str) -> None:
    text = f'{{"iteration": 0, "data_position": 0, "notes": {notes}}}'
    save_file({"parameters/w": torch.zeros(2)}, tmp_path / "state", metadata={FORMAT: text})
    with pytest.raises(IntegrityError):
        TrainState.notes(tmp_path / "state")


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    metadata = {FORMAT: json.dumps({"iteration": 0, "data_position": 0})}
    save_file({"w": torch.zeros(2)}, tmp_path / "nopart", metadata=metadata)
    save_file({"secrets/w": torch.zeros(2)}, tmp_path / "otherpart", metadata=metadata)
    save_file({"parameters/w": torch.zeros(2)}, tmp_path / "bare")
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    (tmp_path / "text").write_text("not a checkpoint")
    torch.save({"w": torch.zeros(2)}, tmp_path / "pickle")
    for name in ("nopart", "otherpart", "bare", "huge", "text", "pickle", "missing"):
        with pytest.raises(IntegrityError, match=name):
            TrainState.load(tmp_path / name)


def test_the_initial_state_is_a_copy_with_momentum_zero() -> None:
    value = network()
    state = TrainState.initial(value)
    assert (state.iteration, state.data_position) == (0, 0)
    assert set(state.momentum) == set(state.parameters) == dict(value.named_parameters()).keys()
    assert not any(bool(m.any()) for m in state.momentum.values())
    before = {name: p.clone() for name, p in state.parameters.items()}
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.add_(1)
    value(torch.ones(2, 1, 8, 8))
    assert all(torch.equal(p, before[name]) for name, p in state.parameters.items())
    assert not any(bool(b.any()) for name, b in state.buffers.items() if name.endswith("running_mean"))


def test_loading_into_a_network_sets_parameters_and_statistics_and_keeps_the_state() -> None:
    state, value = full(), network()
    state.load_into(value)
    found = value.state_dict()
    assert set(found) == {*state.parameters, *state.buffers}
    assert all(torch.equal(found[name], t) for name, t in {**state.parameters, **state.buffers}.items())
    with torch.no_grad():
        value.get_parameter("dense.bias").add_(1)
    assert torch.equal(state.parameters["dense.bias"], full().parameters["dense.bias"])


@pytest.mark.parametrize(("part", "name"), [("parameters", "dense.weight"), ("buffers", "norm.running_var")])
def test_a_misfit_is_refused_by_the_name_of_the_tensor(part: str, name: str) -> None:
    """Of another shape (one that would broadcast too), missing, or not known; and nothing is loaded."""
    state, value = full(), network()
    before = {key: tensor.clone() for key, tensor in value.state_dict().items()}
    tensors = getattr(state, part)
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    for damaged, reason in [
        ({**tensors, name: torch.zeros(3, 3)}, r"\(3, 3\)"),
        ({**tensors, name: torch.zeros(1)}, r"\(1,\)"),
        (without, "lacks"),
        ({**tensors, f"{name}.extra": torch.zeros(1)}, "lacks"),
    ]:
        with pytest.raises(IntegrityError, match=reason) as caught:
            changed(state, part, damaged).load_into(value)
        assert name in caught.value.message
    assert all(torch.equal(tensor, before[key]) for key, tensor in value.state_dict().items())


# Packed: zeros take a bit


def pruned(share: float) -> TrainState:
    """A state whose kernels and their momenta are zero but for a share of their weights."""
    state, generator = full(), torch.Generator().manual_seed(1)
    kept = {
        name: torch.rand(p.shape, generator=generator) < (share if p.dim() > 1 else 2)
        for name, p in state.parameters.items()
    }
    return replace(
        state,
        parameters={name: torch.where(kept[name], p, 0) for name, p in state.parameters.items()},
        momentum={name: torch.where(kept[name], m, 0) for name, m in state.momentum.items()},
    )


def same_bytes(one: TrainState, other: TrainState) -> bool:
    return all(
        set(getattr(one, part)) == set(getattr(other, part))
        and all(
            tensor.shape == getattr(other, part)[name].shape
            and tensor.dtype == getattr(other, part)[name].dtype
            and tensor.numpy().tobytes() == getattr(other, part)[name].numpy().tobytes()
            for name, tensor in getattr(one, part).items()
        )
        for part in PARTS
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.107, 0.5, 0.97, 1.0])
def test_a_pruned_state_is_its_survivors_and_a_bit_a_weight(tmp_path: Path, share: float) -> None:
    state = pruned(share)
    written = len(saved(state, tmp_path / "state"))
    assert same_bytes(TrainState.load(tmp_path / "state"), state)
    survivors = sum(int((p != 0).sum()) for p in state.parameters.values())
    weights = sum(p.numel() for p in state.parameters.values())
    names = 4 * len(state.parameters) + len(state.buffers)
    rest = sum(8 * b.numel() for b in state.buffers.values()) + 200 * names
    assert written <= min(8 * survivors + weights / 8, 8 * weights) + rest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_is_zero_every_bit_comes_back(tmp_path: Path, data: st.DataObject) -> None:
    values = st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-45])
    shape = data.draw(st.sampled_from([(), (1,), (7,), (3, 5), (2, 3, 3, 3)]))
    count = int(torch.empty(shape).numel())
    draw = st.lists(values, min_size=count, max_size=count).map(lambda found: torch.tensor(found).reshape(shape))
    state = TrainState(
        {"w": data.draw(draw), "only": data.draw(draw)},
        {"b": data.draw(draw)},
        {"w": data.draw(draw), "strange": data.draw(draw)},
    )
    first = saved(state, tmp_path / "state")
    assert same_bytes(TrainState.load(tmp_path / "state"), state)
    assert saved(TrainState.load(tmp_path / "state"), tmp_path / "again") == first


def test_momentum_before_the_first_update_takes_no_room(tmp_path: Path) -> None:
    state = TrainState.initial(network())
    first, moved = saved(state, tmp_path / "first"), saved(full(), tmp_path / "moved")
    assert same_bytes(TrainState.load(tmp_path / "first"), state)
    assert len(first) < 0.6 * len(moved)


def test_a_file_from_before_packing_is_read(tmp_path: Path) -> None:
    state = small()
    tensors = {f"{part}/{name}": tensor for part in PARTS for name, tensor in getattr(state, part).items()}
    text = json.dumps({"iteration": state.iteration, "data_position": state.data_position})
    save_file(tensors, tmp_path / "old", metadata={UNPACKED_FORMAT: text})
    loaded = TrainState.load(tmp_path / "old")
    assert same_bytes(loaded, state)
    assert (loaded.iteration, loaded.data_position) == (3, 9)


def test_a_few_bits_claim_no_gigabytes(tmp_path: Path) -> None:
    """A file of 20 MB that says that it is 1.3 GB of zeros."""
    count = 160 << 20
    empty = torch.zeros(0, dtype=torch.float64)
    tensors = {"kept/w": torch.zeros(count // 8, dtype=torch.uint8), "parameters/w": empty}
    text = json.dumps({"iteration": 0, "data_position": 0, "shapes": {"w": [count]}, "zero": []})
    save_file(tensors, tmp_path / "state", metadata={FORMAT: text})
    with pytest.raises(IntegrityError, match="would take 1,342,177,280 bytes"):
        TrainState.load(tmp_path / "state")


@pytest.mark.parametrize(
    ("shapes", "zero"),
    [
        ({}, []),
        ({"w": [2, 4]}, []),
        ({"w": [9]}, []),
        ({"w": [2**40, 2**40]}, []),
        ({"w": [-8]}, []),
        ({"w": "8"}, []),
        ({"w": [8], "v": [8]}, []),
        ([["w", [8]]], []),
        ({"w": [8]}, ["v"]),
        ({"w": [8]}, ["w"]),
        ({"w": [8]}, 5),
        (None, None),
    ],
)
def test_packing_that_does_not_fit_is_refused(tmp_path: Path, shapes: Any, zero: Any) -> None:
    kept = torch.tensor([0b10100000], dtype=torch.uint8)
    tensors = {"kept/w": kept, "parameters/w": torch.ones(2), "momentum/w": torch.ones(3)}
    text = json.dumps({"iteration": 0, "data_position": 0, "shapes": shapes, "zero": zero})
    save_file(tensors, tmp_path / "state", metadata={FORMAT: text})
    with pytest.raises(IntegrityError):
        TrainState.load(tmp_path / "state")


def test_an_interrupt_at_any_moment_of_reading_is_one(tmp_path: Path) -> None:
    """And no damage to the file, which PyTorch makes of one that comes while it takes a tensor."""
    path, draw = tmp_path / "state.safetensors", random.Random(0)
    full().save(path)
    began = time.perf_counter()
    TrainState.load(path)
    seconds = time.perf_counter() - began

    def read_interrupted(after: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, after)
        TrainState.load(path)
        time.sleep(1)  # until it comes, where all was read before

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(100):
            with pytest.raises(KeyboardInterrupt):
                read_interrupted(draw.uniform(1e-6, seconds))
            forget_interrupts()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        forget_interrupts()
