"""Files that differ a little from others, drawn from a seed: what there is where no coverage guides."""

import random
import re

INTERESTING = (b"", b"0", b"-1", b"1e999", b"nan", b"null", b"true", b"[]", b"{}", b'""', b"9" * 400, b"4294967296")
INTERESTING += (b"9223372036854775808", b"../../x", b"\x00", b"\x1b[2J", b"\xff\xff\xff\xff", b"1099511627776", b"=1+1")
MOST_STEPS = 6
LONGEST = 100_000


def tokens(corpus: tuple[bytes, ...]) -> list[bytes]:
    """The words and numbers of the files."""
    return sorted({word for data in corpus for word in re.findall(rb"[A-Za-z_]{2,20}|-?[0-9.]{1,20}", data[:20_000])})


def mutated(draw: random.Random, corpus: list[bytes], words: list[bytes]) -> bytes:
    """One of the files of `corpus` after a few small changes."""
    data = bytearray(draw.choice(corpus)[:LONGEST])
    for _ in range(draw.randint(1, MOST_STEPS)):
        start = draw.randint(0, len(data))
        end = min(len(data), start + draw.choice((0, 1, 1, 2, 4, 8, 64)))
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[start % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[start:end] = b""
        elif kind == 2:
            data[start:start] = bytes(data[start:end]) * draw.choice((1, 2, 50))
        elif kind == 3:
            data[start:end] = draw.randbytes(draw.randint(1, 8))
        elif kind == 4:
            data[start:end] = draw.choice(words or [b"x"])
        elif kind == 5:
            other = draw.choice(corpus)
            place = draw.randint(0, len(other))
            data[start:end] = other[place : place + draw.choice((4, 32, 200))]
        else:
            found = list(re.finditer(rb"[A-Za-z0-9_.]+", data[:20_000])) or [re.search(rb"", data)]
            match = draw.choice(found)
            assert match is not None
            data[match.start() : match.end()] = draw.choice((*INTERESTING, *words))
    return bytes(data[:LONGEST])
