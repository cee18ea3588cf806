"""Named streams: pure functions of seed, name and counter, none like another."""

import itertools
import os
import subprocess
import sys

import pytest

from rewindctl.seeds import derived_seed, stream

NAMES = ("init", "order", "augment")


def drawn(seed: int, name: str, counter: int = 0) -> tuple[int, ...]:
    return tuple(stream(seed, name, counter).integers(2**62, size=4).tolist())


def test_a_stream_is_a_function_of_seed_name_and_counter() -> None:
    stream(3, "order", 1).integers(100, size=1_000)
    assert drawn(3, "order", 2) == drawn(3, "order", 2)


def test_no_two_streams_are_alike() -> None:
    keys = list(itertools.product((0, 1, 2, 2**32 - 1), NAMES, (0, 1, 2)))
    assert len({drawn(*key) for key in keys}) == len(keys)


def test_a_derived_seed_fits_63_bits_and_follows_its_stream() -> None:
    seeds = {(seed, name): derived_seed(seed, name) for seed in range(50) for name in NAMES}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= value < 2**63 for value in seeds.values())
    assert seeds[7, "init"] == derived_seed(7, "init")


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(KeyError):
        stream(0, "sampler")


def test_streams_are_the_same_in_every_process() -> None:
    """Whatever Python's hash seed is."""
    code = "from rewindctl.seeds import derived_seed; print(derived_seed(7, 'init'))"
    answers = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert [int(answer.stdout) for answer in answers] == [derived_seed(7, "init")] * 2
