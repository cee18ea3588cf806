# mypy: ignore-errors
"""The first and the last kernel of an update: the batch is made, all parameters are updated."""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before, rounded


@triton.jit
def take_batch(
    images,
    labels,
    indices,
    down,
    across,
    position,
    scale,
    shift,
    batch,
    chosen_labels,
    DRAWS,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDING: tl.constexpr,
    IMAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program (part, image, trial): BLOCK elements of an image. DRAWS: of a trial, as `BatchStream` makes them."""
    after_those_before(EARLY)
    part, n, t = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    drawn = t * DRAWS + tl.load(position + t) * IMAGES + n
    sample = tl.load(indices + drawn)
    top = tl.load(down + drawn).to(tl.int32) - PADDING
    start = tl.load(across + drawn).to(tl.int32)
    STARTS: tl.constexpr = 2 * PADDING + 1
    mirrored = start >= STARTS
    left = tl.where(mirrored, start - STARTS, start) - PADDING
    element = part * BLOCK + tl.arange(0, BLOCK)
    inside = element < HEIGHT * WIDTH * CHANNELS
    channel, pixel = element % CHANNELS, element // CHANNELS
    row, column = pixel // WIDTH + top, pixel % WIDTH + left
    # Reflection: -1 is 1, and WIDTH is WIDTH - 2.
    row = (HEIGHT - 1) - tl.abs((HEIGHT - 1) - tl.abs(row))
    column = (WIDTH - 1) - tl.abs((WIDTH - 1) - tl.abs(column))
    column = tl.where(mirrored, WIDTH - 1 - column, column)
    source = sample * (HEIGHT * WIDTH * CHANNELS) + (row * WIDTH + column) * CHANNELS + channel
    value = tl.load(images + source, mask=inside, other=0).to(tl.float32)
    value = value * tl.load(scale + channel) + tl.load(shift + channel)
    to = (t * IMAGES + n) * (HEIGHT * WIDTH * CHANNELS) + element
    tl.store(batch + to, rounded(value, batch), mask=inside)
    if part == 0:
        tl.store(chosen_labels + t * IMAGES + n, tl.load(labels + sample))


@triton.jit
def update(
    weights,
    copies,
    momenta,
    kept,
    sums,
    table,
    rate,
    stopped,
    W,
    SUMS,
    MOMENTUM,
    DECAY,
    NESTEROV: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
    BS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program (block, 0, trial): BLOCK parameters. A trial that has `stopped` stays as it is.

    Source: Nesterov momentum as in torch.optim.SGD.

    Row b of `table`: where the sums of block b begin, how many shares there are, how far apart, how many parameters.
    `kept` is 0 or 1: the gradient of a weight that is 0 for good is 0, so that it and its momentum stay exactly 0.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    i, s = tl.arange(0, BLOCK), tl.arange(0, BS)
    first, shares = tl.load(table + block * 4), tl.load(table + block * 4 + 1)
    apart, count = tl.load(table + block * 4 + 2), tl.load(table + block * 4 + 3)
    if tl.load(stopped + t) == 0:
        total = tl.zeros((BS, BLOCK), tl.float32)
        for share in range(0, shares, BS):
            there = (share + s < shares)[:, None] & (i < count)[None, :]
            total += tl.load(sums + t * SUMS + first + (share + s)[:, None] * apart + i[None, :], mask=there, other=0.0)
        gradient = tl.sum(total, 0)
        at = t * W + block * BLOCK + i
        weight = tl.load(weights + at)
        gradient = tl.where(tl.load(kept + at) != 0, gradient, 0.0)
        gradient += DECAY * weight
        momentum = MOMENTUM * tl.load(momenta + at) + gradient
        if NESTEROV:
            gradient += MOMENTUM * momentum
        else:
            gradient = momentum
        weight -= tl.load(rate + t) * gradient
        tl.store(momenta + at, momentum)
        tl.store(weights + at, weight)
        if COPY:
            tl.store(copies + at, rounded(weight, copies))
