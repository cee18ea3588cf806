# mypy: ignore-errors
"""The update of all parameters in one kernel. Source: Nesterov momentum as in torch.optim.SGD."""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before, rounded


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
    MASKED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
    BS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program (block, 0, trial): BLOCK parameters. A trial that has `stopped` stays as it is.

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
        if MASKED:
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
