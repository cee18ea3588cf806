# mypy: ignore-errors
"""Batch norm between convolutions: sums to statistics, normalise, and back. Source: Ioffe and Szegedy 2015.

`stat` holds four rows for the channels of a norm: mean, 1 / deviation, scale, shift; `back` three: the gradient of the
input is back[0] dy + back[1] x + back[2].

`part` holds what the programs of the kernel before left: two rows of sums for each of its tiles.
"""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before, rounded


@triton.jit
def column_sums(
    raw,
    part,
    X,
    ROWS,
    C: tl.constexpr,
    BM: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Mean and sum of squared differences from it of each tile of BM rows, BR a time: of what a library made."""
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    r, c = tl.arange(0, BR), tl.program_id(1) * BC + tl.arange(0, BC)
    raw += t * X
    m = block * BM + r
    value = tl.load(raw + m[:, None] * C + c[None, :], mask=(m < ROWS)[:, None], other=0.0).to(tl.float32)
    near = tl.sum(value, 0) / tl.minimum(ROWS - block * BM, BR).to(tl.float32)  # what is summed is small beside it
    apart = tl.zeros((BR, BC), tl.float32)
    squares = tl.zeros((BR, BC), tl.float32)
    for first in range(0, BM, BR):
        m = block * BM + first + r
        inside = (m < ROWS)[:, None]
        value = tl.load(raw + m[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32) - near[None, :]
        value = tl.where(inside, value, 0.0)
        apart += value
        squares += value * value
    count = tl.minimum(ROWS - block * BM, BM).to(tl.float32)
    off = tl.sum(apart, 0) / count
    at = part + (t * tl.num_programs(0) + block) * (2 * C) + c
    tl.store(at, near + off)
    tl.store(at + C, tl.maximum(tl.sum(squares, 0) - count * off * off, 0.0))


@triton.jit
def statistics(
    part,
    gamma,
    beta,
    stat,
    running_mean,
    running_var,
    PARTS,
    W,
    STAT,
    RUNNING,
    ROWS,
    EPSILON,
    MOMENTUM,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """From means and spreads of tiles of BM rows (Chan et al. 1983): no difference of large sums."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    c, p = tl.program_id(0) * BC + tl.arange(0, BC), tl.arange(0, BP)
    part += t * PARTS * (2 * C)
    near = tl.load(part + c)  # the first tile's mean: what is summed is small beside it
    apart = tl.zeros((BP, BC), tl.float32)
    spread = tl.zeros((BP, BC), tl.float32)
    for first in range(0, PARTS, BP):
        at = first + p
        there = (at < PARTS)[:, None]
        count = tl.minimum(ROWS - at * BM, BM).to(tl.float32)[:, None]
        mean = tl.load(part + at[:, None] * (2 * C) + c[None, :], mask=there, other=0.0) - near[None, :]
        own = tl.load(part + at[:, None] * (2 * C) + C + c[None, :], mask=there, other=0.0)
        apart += tl.where(there, count * mean, 0.0)
        spread += tl.where(there, own + count * mean * mean, 0.0)
    rows = ROWS * 1.0  # not .to: Triton makes a plain number of a 1
    off = tl.sum(apart, 0) / rows
    mean = near + off
    squares = tl.maximum(tl.sum(spread, 0) - rows * off * off, 0.0)
    rate = 1.0 / tl.sqrt(squares / rows + EPSILON)
    scale = tl.load(gamma + t * W + c) * rate
    at = stat + t * STAT + c
    tl.store(at, mean)
    tl.store(at + C, rate)
    tl.store(at + 2 * C, scale)
    tl.store(at + 3 * C, tl.load(beta + t * W + c) - mean * scale)
    at = running_mean + t * RUNNING + c
    tl.store(at, (1.0 - MOMENTUM) * tl.load(at) + MOMENTUM * mean)
    at = running_var + t * RUNNING + c
    tl.store(at, (1.0 - MOMENTUM) * tl.load(at) + MOMENTUM * (squares / (rows - 1.0)))


@triton.jit
def normalise(
    raw,
    added,
    out,
    stat,
    X,
    STAT,
    ROWS,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """out = relu(scale raw + shift (+ `added`))."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    m, c = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (m < ROWS)[:, None]
    at = t * X + m[:, None] * C + c[None, :]
    scale, shift = tl.load(stat + t * STAT + 2 * C + c), tl.load(stat + t * STAT + 3 * C + c)
    value = tl.load(raw + at, mask=inside, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if ADD:
        value += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
    # Not `maximum`, which may give 0 for NaN: a network that diverges must be seen to.
    tl.store(out + at, rounded(tl.where(value < 0, 0.0, value), out), mask=inside)


@triton.jit
def column_sums_back(
    dy,
    raw,
    y,
    out,
    stat,
    part,
    X,
    STAT,
    ROWS,
    C: tl.constexpr,
    BM: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Sums of dy and of dy (raw - mean) / deviation over each tile of BM rows, of the dy that the ReLU lets through.

    Without a second summand `raw` tells what it lets through, else y does, and out = this dy is the summand's gradient.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    r, c = tl.arange(0, BR), tl.program_id(1) * BC + tl.arange(0, BC)
    stat += t * STAT + c
    mean, rate, scale, shift = tl.load(stat), tl.load(stat + C), tl.load(stat + 2 * C), tl.load(stat + 3 * C)
    one = tl.zeros((BR, BC), tl.float32)
    other = tl.zeros((BR, BC), tl.float32)
    for first in range(0, BM, BR):
        m = block * BM + first + r
        inside = (m < ROWS)[:, None]
        at = t * X + m[:, None] * C + c[None, :]
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(raw + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            gradient = tl.where(tl.load(y + at, mask=inside, other=0.0) > 0, gradient, 0.0)
            tl.store(out + at, rounded(gradient, out), mask=inside)
        else:
            gradient = tl.where(value * scale[None, :] + shift[None, :] > 0, gradient, 0.0)
        one += gradient
        other += gradient * (value - mean[None, :]) * rate[None, :]
    at = part + (t * tl.num_programs(0) + block) * (2 * C) + c
    tl.store(at, tl.sum(one, 0))
    tl.store(at + C, tl.sum(other, 0))


@triton.jit
def statistics_back(
    part,
    gamma,
    stat,
    back,
    dgamma,
    dbeta,
    PARTS,
    W,
    STAT,
    BACK,
    SUMS,
    ROWS,
    C: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """From sums of dy and of dy (raw - mean) / deviation: the gradients of gamma and beta, and `back`."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    c, p = tl.program_id(0) * BC + tl.arange(0, BC), tl.arange(0, BP)
    part += t * PARTS * (2 * C)
    one = tl.zeros((BP, BC), tl.float32)
    other = tl.zeros((BP, BC), tl.float32)
    for first in range(0, PARTS, BP):
        at = (first + p)[:, None] * (2 * C) + c[None, :]
        there = (first + p < PARTS)[:, None]
        one += tl.load(part + at, mask=there, other=0.0)
        other += tl.load(part + at + C, mask=there, other=0.0)
    to_shift, to_scale = tl.sum(one, 0), tl.sum(other, 0)
    tl.store(dbeta + t * SUMS + c, to_shift)
    tl.store(dgamma + t * SUMS + c, to_scale)
    mean, rate = tl.load(stat + t * STAT + c), tl.load(stat + t * STAT + C + c)
    rows = ROWS * 1.0  # not .to: Triton makes a plain number of a 1
    of_dy = tl.load(gamma + t * W + c) * rate
    of_x = -of_dy * rate * to_scale / rows
    tl.store(back + t * BACK + c, of_dy)
    tl.store(back + t * BACK + C + c, of_x)
    tl.store(back + t * BACK + 2 * C + c, -of_dy * to_shift / rows - of_x * mean)


@triton.jit
def normalise_back(
    dy,
    raw,
    added,
    out,
    stat,
    back,
    X,
    STAT,
    BACK,
    ROWS,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ADD: tl.constexpr,
    MASK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """out = the gradient of the norm's input (+ `added`); MASK: of the dy that a ReLU of the norm lets through."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    m, c = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (m < ROWS)[:, None]
    at = t * X + m[:, None] * C + c[None, :]
    factors = back + t * BACK + c
    of_dy, of_x, rest = tl.load(factors), tl.load(factors + C), tl.load(factors + 2 * C)
    gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(raw + at, mask=inside, other=0.0).to(tl.float32)
    if MASK:
        scale, shift = tl.load(stat + t * STAT + 2 * C + c), tl.load(stat + t * STAT + 3 * C + c)
        gradient = tl.where(before * scale[None, :] + shift[None, :] > 0, gradient, 0.0)
    value = gradient * of_dy[None, :] + rest[None, :]
    value += before * of_x[None, :]
    if ADD:
        value += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, rounded(value, out), mask=inside)
