# mypy: ignore-errors
"""What an evaluation does beside the forward pass: its images, its statistics, losses and right answers.

Every trial has a `position`, the batch it is at; batch p is images p IMAGES to (p + 1) IMAGES of the TOTAL there are.
"""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before


@triton.jit
def start_scores(loss_sum, correct, position, EARLY: tl.constexpr):
    """Program (0, 0, trial): nothing is summed up, and the first batch is next."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    tl.store(loss_sum + t, 0.0)
    tl.store(correct + t, 0)
    tl.store(position + t, 0)


@triton.jit
def known_statistics(
    gamma,
    beta,
    running_mean,
    running_var,
    stat,
    W,
    RUNNING,
    STAT,
    EPSILON,
    C: tl.constexpr,
    BC: tl.constexpr,
    EARLY: tl.constexpr,
):
    """`stat` as `norms.statistics` makes it, of the running mean and variance; program (channels, 0, trial)."""
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    mean = tl.load(running_mean + t * RUNNING + c)
    rate = 1.0 / tl.sqrt(tl.load(running_var + t * RUNNING + c) + EPSILON)
    scale = tl.load(gamma + t * W + c) * rate
    at = stat + t * STAT + c
    tl.store(at, mean)
    tl.store(at + C, rate)
    tl.store(at + 2 * C, scale)
    tl.store(at + 3 * C, tl.load(beta + t * W + c) - mean * scale)


@triton.jit
def take_test_batch(
    images,
    position,
    scale,
    shift,
    batch,
    TOTAL,
    ELEMENTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    IMAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program (part, image, trial): BLOCK elements of an image, standardised; 0 where there is no image any more."""
    after_those_before(EARLY)
    part, n, t = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    sample = tl.load(position + t) * IMAGES + n
    element = part * BLOCK + tl.arange(0, BLOCK)
    inside, channel = element < ELEMENTS, element % CHANNELS
    there = inside & (sample < TOTAL)
    value = tl.load(images + sample * ELEMENTS + element, mask=there, other=0).to(tl.float32)
    value = value * tl.load(scale + channel) + tl.load(shift + channel)
    tl.store(batch + (t * IMAGES + n) * ELEMENTS + element, tl.where(there, value, 0.0), mask=inside)


@triton.jit
def score(
    y,
    weight,
    bias,
    labels,
    position,
    losses,
    right,
    Y,
    W,
    IMAGES,
    TOTAL,
    PIXELS: tl.constexpr,
    PP: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    CLASSES: tl.constexpr,
    KP: tl.constexpr,
    BI: tl.constexpr,
    EARLY: tl.constexpr,
):
    """For BI images: loss, and 1 where the answer is the label, else 0; both 0 where there is no image any more.

    The answer is torch.argmax's: the first of the largest, and NaN is larger than anything. Weights lie as (C, KP), 0
    beyond CLASSES. In float64 from the logits on: of a sure answer log(1 + little) would be rounding alone.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    n, pixel, k = block * BI + tl.arange(0, BI), tl.arange(0, PP), tl.arange(0, KP)
    sample = tl.load(position + t) * IMAGES + n
    inside = n < IMAGES
    real = inside & (sample < TOTAL)
    there = (real[:, None] & (pixel < PIXELS)[None, :])[:, :, None]
    logits = tl.zeros((BI, KP), tl.float32) + tl.load(bias + t * W + k)[None, :]
    for first in range(0, C, BC):
        c = first + tl.arange(0, BC)
        at = t * Y + (n[:, None, None] * PIXELS + pixel[None, :, None]) * C + c[None, None, :]
        feature = tl.sum(tl.load(y + at, mask=there, other=0.0), 1) / PIXELS
        w = tl.load(weight + t * W + c[:, None] * KP + k[None, :])
        logits += tl.sum(feature[:, :, None] * w[None, :, :], 1)
    logits = tl.where((k < CLASSES)[None, :], logits, float("-inf"))
    unknown = logits != logits  # noqa: PLR0124 (NaN)
    known = tl.where(unknown, float("inf"), logits)  # a maximum may pass NaN by
    top = tl.max(known, 1)
    largest = tl.where(tl.max(unknown.to(tl.int32), 1)[:, None] > 0, unknown, known == top[:, None])
    answer = tl.min(tl.where(largest, k[None, :], KP), 1)
    label = tl.load(labels + sample, mask=real, other=0)
    apart = logits.to(tl.float64) - top.to(tl.float64)[:, None]  # NaN where `top` is infinite, as in PyTorch
    of_label = tl.sum(tl.where(k[None, :] == label[:, None], apart, 0.0), 1)
    loss = tl.log(tl.sum(tl.exp(apart), 1)) - of_label
    tl.store(losses + t * IMAGES + n, tl.where(real, loss, 0.0), mask=inside)
    tl.store(right + t * IMAGES + n, (real & (answer == label)).to(tl.int32), mask=inside)


@triton.jit
def add_scores(
    losses,
    right,
    loss_sum,
    correct,
    position,
    IMAGES,
    BN: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program (0, 0, trial): the sums of a batch in a fixed order, and on to the next one."""
    after_those_before(EARLY)
    t, n = tl.program_id(2).to(tl.int64), tl.arange(0, BN)
    loss = tl.zeros((BN,), tl.float64)
    count = tl.zeros((BN,), tl.int32)
    for first in range(0, IMAGES, BN):
        there = first + n < IMAGES
        loss += tl.load(losses + t * IMAGES + first + n, mask=there, other=0.0)
        count += tl.load(right + t * IMAGES + first + n, mask=there, other=0)
    tl.store(loss_sum + t, tl.load(loss_sum + t) + tl.sum(loss, 0))
    tl.store(correct + t, tl.load(correct + t) + tl.sum(count, 0).to(tl.int64))
    tl.store(position + t, tl.load(position + t) + 1)
