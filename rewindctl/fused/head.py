# mypy: ignore-errors
"""Average pool, dense layer, cross entropy, and the way back to the last norm; the loss and where the training is."""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before, rounded


@triton.jit
def head(
    y,
    raw,
    stat,
    weight,
    bias,
    labels,
    dy,
    part,
    features,
    dlogits,
    losses,
    Y,
    W,
    STAT,
    IMAGES,
    PIXELS: tl.constexpr,
    PP: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    CLASSES: tl.constexpr,
    KP: tl.constexpr,
    BI: tl.constexpr,
    EARLY: tl.constexpr,
):
    """For BI images: features (images, C), loss of each, gradient of the logits (images, KP), and of y where y > 0.

    The last with the sums for the way back of the norm that made y of `raw`. Weights lie as (C, KP), 0 beyond CLASSES.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    n, pixel, k = block * BI + tl.arange(0, BI), tl.arange(0, PP), tl.arange(0, KP)
    real = n < IMAGES
    there = (real[:, None] & (pixel < PIXELS)[None, :])[:, :, None]
    logits = tl.zeros((BI, KP), tl.float32) + tl.load(bias + t * W + k)[None, :]
    for first in range(0, C, BC):
        c = first + tl.arange(0, BC)
        at = t * Y + (n[:, None, None] * PIXELS + pixel[None, :, None]) * C + c[None, None, :]
        feature = tl.sum(tl.load(y + at, mask=there, other=0.0).to(tl.float32), 1) / PIXELS
        tl.store(features + (t * IMAGES + n)[:, None] * C + c[None, :], feature, mask=real[:, None])
        w = tl.load(weight + t * W + c[:, None] * KP + k[None, :])
        logits += tl.sum(feature[:, :, None] * w[None, :, :], 1)
    logits = tl.where((k < CLASSES)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    powers = tl.exp(logits - top[:, None])
    total = tl.sum(powers, 1)
    label = tl.load(labels + t * IMAGES + n, mask=real, other=0)
    right = k[None, :] == label[:, None]
    loss = top + tl.log(total) - tl.sum(tl.where(right, logits, 0.0), 1)
    tl.store(losses + t * IMAGES + n, loss, mask=real)
    dlogit = (powers / total[:, None] - right.to(tl.float32)) / (IMAGES * 1.0)
    tl.store(dlogits + (t * IMAGES + n)[:, None] * KP + k[None, :], dlogit, mask=real[:, None])
    for first in range(0, C, BC):
        c = first + tl.arange(0, BC)
        at = t * Y + (n[:, None, None] * PIXELS + pixel[None, :, None]) * C + c[None, None, :]
        w = tl.load(weight + t * W + c[:, None] * KP + k[None, :])
        dfeature = tl.sum(dlogit[:, None, :] * w[None, :, :], 2) / PIXELS
        alive = tl.load(y + at, mask=there, other=0.0) > 0
        value = rounded(tl.where(alive, dfeature[:, None, :], 0.0), dy)
        tl.store(dy + at, value, mask=there)
        value = value.to(tl.float32)
        mean, rate = tl.load(stat + t * STAT + c), tl.load(stat + t * STAT + C + c)
        apart = tl.load(raw + at, mask=there, other=0.0).to(tl.float32) - mean[None, None, :]
        to = part + (t * tl.num_programs(0) + block) * (2 * C) + c
        tl.store(to, tl.sum(tl.sum(value, 1), 0))
        tl.store(to + C, tl.sum(tl.sum(value * apart * rate[None, None, :], 1), 0))


@triton.jit
def head_gradients(
    features,
    dlogits,
    losses,
    dweight,
    dbias,
    loss_sum,
    latest,
    stopped,
    iteration,
    position,
    SUMS,
    IMAGES,
    BATCHES,
    C: tl.constexpr,
    BC: tl.constexpr,
    KP: tl.constexpr,
    BN: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Gradients of the dense layer, BC features a program; the last one: bias, mean loss, and what follows from it.

    `stopped` is 1 from the first loss on that is not finite; `iteration` and `latest` stay there: which, and what.
    """
    after_those_before(EARLY)
    t = tl.program_id(2).to(tl.int64)
    n, k = tl.arange(0, BN), tl.arange(0, KP)
    features += t * IMAGES * C
    dlogits += t * IMAGES * KP
    if tl.program_id(0) < C // BC:
        c = tl.program_id(0) * BC + tl.arange(0, BC)
        sums = tl.zeros((BC, KP), tl.float32)
        for first in range(0, IMAGES, BN):
            there = (first + n < IMAGES)[:, None]
            f = tl.load(features + (first + n)[:, None] * C + c[None, :], mask=there, other=0.0)
            d = tl.load(dlogits + (first + n)[:, None] * KP + k[None, :], mask=there, other=0.0)
            sums += tl.sum(f[:, :, None] * d[:, None, :], 0)
        tl.store(dweight + t * SUMS + c[:, None] * KP + k[None, :], sums)
    else:
        rows = tl.zeros((BN, KP), tl.float32)
        each = tl.zeros((BN,), tl.float32)
        for first in range(0, IMAGES, BN):
            there = first + n < IMAGES
            rows += tl.load(dlogits + (first + n)[:, None] * KP + k[None, :], mask=there[:, None], other=0.0)
            each += tl.load(losses + t * IMAGES + first + n, mask=there, other=0.0)
        tl.store(dbias + t * SUMS + k, tl.sum(rows, 0))
        loss = tl.sum(each, 0) / (IMAGES * 1.0)
        tl.store(loss_sum + t, tl.load(loss_sum + t) + loss.to(tl.float64))
        before = tl.load(stopped + t) > 0
        now = before | ((loss - loss) != 0)  # 0 if it is finite, else NaN
        tl.store(latest + t, tl.where(before, tl.load(latest + t), loss))
        tl.store(stopped + t, now.to(tl.float32))
        tl.store(iteration + t, tl.load(iteration + t) + tl.where(now, 0.0, 1.0).to(tl.float64))
        tl.store(position + t, (tl.load(position + t) + 1) % BATCHES)
