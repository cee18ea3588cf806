# mypy: ignore-errors
"""The batch of an update in one kernel: gathered, cropped, mirrored, standardised."""

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
