"""Option values that need more than a type: seeds, lists of iterations, sparsity or compression."""

import re

from rewindctl.errors import UsageError
from rewindctl.options import target_sparsity

MOST_SEEDS = 10_000
LAST_SEED = 2**32 - 1


def one_or_more_seeds(seed: int | None, text: str | None) -> tuple[int, ...]:
    """From --seed or --seeds; 0 when none is given. Raises: UsageError when both are."""
    if text is None:
        if seed is not None and not 0 <= seed <= LAST_SEED:
            raise UsageError(f"--seed {seed} is outside 0 to {LAST_SEED}", "give one number, such as 0")
        return (seed or 0,)
    if seed is not None:
        raise UsageError(f"both --seed {seed} and --seeds {text} are given", "give one of the two")
    return seeds(text)


def seeds(text: str) -> tuple[int, ...]:
    """`3`, `0-4`, `0,2,5-7`: sorted, each once. Raises: UsageError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {text!r} is not a list of seeds", "write 0-4, or 0,2,5")
        low, high = int(first), int(last or first)
        if high > LAST_SEED:
            raise UsageError(f"--seeds {part.strip()!r}: a seed is at most {LAST_SEED}", "write 0-4, or 0,2,5")
        if high < low:
            raise UsageError(f"--seeds {part.strip()!r} is not a range of seeds", "write 0-4, smallest first")
        if high - low >= MOST_SEEDS:
            raise UsageError(f"--seeds {part.strip()!r}: more than {MOST_SEEDS:,} seeds", "write 0-4, or 0,2,5")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def trials(count: int | None, text: str | None) -> tuple[int, ...] | None:
    """Seeds from --trials or --seeds, None when none is given. Raises: UsageError when both are."""
    if text is None:
        if count is not None and not 0 < count <= MOST_SEEDS:
            raise UsageError(f"--trials {count} is not from 1 to {MOST_SEEDS}", "give a number of seeds, such as 3")
        return None if count is None else tuple(range(count))
    if count is not None:
        raise UsageError(f"both --trials {count} and --seeds {text} are given", "give one of the two")
    return seeds(text)


def iterations(option: str, text: str | None) -> tuple[int, ...] | None:
    """`0,500,2000`. Raises: UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--{option} {text!r} is not a list of iterations", "write 0,500,2000")
    return tuple(int(part) for part in parts)


def size(option: str, text: str, smallest: int) -> int:
    """`16M` in bytes; K, M and G are 2**10, 2**20 and 2**30. Raises: UsageError."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    count = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()] if match else 0
    if count < smallest:
        raise UsageError(f"--{option} {text!r} is not a size of {smallest:,} bytes or more", "write 16M, or 2G")
    return count


def tag(text: str) -> tuple[str, str]:
    """`KEY=VALUE`. Raises: UsageError."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise UsageError(f"--tag {text!r} is not KEY=VALUE", "write model=resnet20, or method=lr_rewind")
    return key, value


def compressions(text: str) -> tuple[float, ...]:
    """`20,50`. Raises: UsageError."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--compressions {text!r} is not a list of numbers", "write 20,50") from None
    for value in values:
        target_sparsity(None, value)
    return values
