"""How many of what, in words."""


def count_of(number: int, noun: str, plural: str = "") -> str:
    """`1 run`, `1,234 runs`; `plural` where an s does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
