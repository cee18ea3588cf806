# mypy: ignore-errors
"""Convolutions as matrix products of pixels and channels, with the sums that the norm beside them needs.

Pixels are rows: row m is (image, height, width), its columns are channels. Weights lie as (kernel height, kernel width,
in, out). The sums of a program go to `part` (trials, programs, 2, channels), which one program adds up later in a fixed
order: the same bytes every time, however many trials there are.
"""

import triton
import triton.language as tl

from rewindctl.fused.order import after_those_before, multiplied, rounded


@triton.jit
def _spread(value, inside, ROWS, block, BM: tl.constexpr):
    """Mean and sum of squared differences from it of each column of a tile of which `inside` rows count."""
    count = tl.minimum(ROWS - block * BM, BM).to(tl.float32)
    value = tl.where(inside[:, None], value, 0.0)
    mean = tl.sum(value, 0) / count
    apart = tl.where(inside[:, None], value - mean[None, :], 0.0)
    return mean, tl.sum(apart * apart, 0)


@triton.jit
def _normalised(raw, ok, stat, c, like, C: tl.constexpr):
    """relu(scale raw + shift) of a tile with the channels c, as `normalise` stores it; 0 where not `ok`."""
    value = raw.to(tl.float32) * tl.load(stat + 2 * C + c)[None, :] + tl.load(stat + 3 * C + c)[None, :]
    return rounded(tl.where(ok & ~(value < 0), value, 0.0), like)


@triton.jit
def first_convolution(
    x,
    w,
    out,
    part,
    X,
    W,
    OUT,
    ROWS,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CI: tl.constexpr,
    CO: tl.constexpr,
    KERNEL: tl.constexpr,
    KP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SUMS: tl.constexpr,
    SPLIT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Of images of a few channels: all of a kernel is one row of KP values, its places beyond the kernel 0.

    SUMS and SPLIT: as in `convolution`.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    m = block * BM + tl.arange(0, BM)
    inside = m < ROWS
    ow, oh, n = m % WIDTH, (m // WIDTH) % HEIGHT, m // (WIDTH * HEIGHT)
    j, co = tl.arange(0, KP), tl.program_id(1) * BN + tl.arange(0, BN)
    tap, ci = j // CI, j % CI
    real = j < KERNEL * KERNEL * CI
    ih = oh[:, None] + (tap // KERNEL - KERNEL // 2)[None, :]
    iw = ow[:, None] + (tap % KERNEL - KERNEL // 2)[None, :]
    ok = (ih >= 0) & (ih < HEIGHT) & (iw >= 0) & (iw < WIDTH) & inside[:, None] & real[None, :]
    a = tl.load(x + t * X + ((n[:, None] * HEIGHT + ih) * WIDTH + iw) * CI + ci[None, :], mask=ok, other=0.0)
    b = tl.load(w + t * W + j[:, None] * CO + co[None, :], mask=real[:, None], other=0.0)
    value = rounded(multiplied(a, b, tl.zeros((BM, BN), tl.float32), SPLIT), out)
    tl.store(out + t * OUT + m[:, None] * CO + co[None, :], value, mask=inside[:, None])
    if SUMS:
        mean, apart = _spread(value.to(tl.float32), inside, ROWS, block, BM)
        at = part + (t * tl.num_programs(0) + block) * (2 * CO) + co
        tl.store(at, mean)
        tl.store(at + CO, apart)


@triton.jit
def convolution(
    x,
    w,
    out,
    added,
    part,
    stat,
    X,
    W,
    OUT,
    STAT,
    ROWS,
    HI: tl.constexpr,
    WI: tl.constexpr,
    CI: tl.constexpr,
    HO: tl.constexpr,
    WO: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ADD: tl.constexpr,
    SUMS: tl.constexpr,
    FOLD: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """out = x * w (+ `added`), program (rows, channels, trial); SUMS: mean and spread of each tile for the norm.

    FOLD: x is what goes into a norm, and what is convolved is relu(norm(x)). SPLIT: products as `multiplied` has them.
    """
    after_those_before(EARLY)
    block, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    m = block * BM + tl.arange(0, BM)
    inside = m < ROWS
    ow, oh, n = m % WO, (m // WO) % HO, m // (WO * HO)
    co, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    x += t * X
    w += t * W
    PARTS: tl.constexpr = CI // BK
    sums = tl.zeros((BM, BN), tl.float32)
    for i in tl.range(0, KERNEL * KERNEL * PARTS, num_stages=STAGES):
        tap, ci = i // PARTS, (i % PARTS) * BK + k
        ih = oh * STRIDE + tap // KERNEL - KERNEL // 2
        iw = ow * STRIDE + tap % KERNEL - KERNEL // 2
        ok = (ih >= 0) & (ih < HI) & (iw >= 0) & (iw < WI) & inside
        a = tl.load(x + ((n * HI + ih) * WI + iw)[:, None] * CI + ci[None, :], mask=ok[:, None], other=0.0)
        if FOLD:
            a = _normalised(a, ok[:, None], stat + t * STAT, ci, x, CI)
        b = tl.load(w + (tap * CI + ci)[:, None] * CO + co[None, :])
        sums = multiplied(a, b, sums, SPLIT)
    at = t * OUT + m[:, None] * CO + co[None, :]
    if ADD:
        sums += tl.load(added + at, mask=inside[:, None], other=0.0).to(tl.float32)
    value = rounded(sums, out)
    tl.store(out + at, value, mask=inside[:, None])
    if SUMS:
        mean, apart = _spread(value.to(tl.float32), inside, ROWS, block, BM)
        to = part + (t * tl.num_programs(0) + block) * (2 * CO) + co
        tl.store(to, mean)
        tl.store(to + CO, apart)


@triton.jit
def _gradient_of_input(
    program,
    t,
    dout,
    w,
    din,
    part,
    y,
    raw,
    stat,
    skip,
    dskip,
    w_skip,
    W,
    DOUT,
    DIN,
    STAT,
    ROWS,
    HI: tl.constexpr,
    WI: tl.constexpr,
    CI: tl.constexpr,
    HO: tl.constexpr,
    WO: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    TILES: tl.constexpr,
    SKIP: tl.constexpr,
    PROJECT: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
):
    block = program % TILES
    m = block * BM + tl.arange(0, BM)
    inside = m < ROWS
    iw, ih, n = m % WI, (m // WI) % HI, m // (WI * HI)
    ci, k = (program // TILES) * BN + tl.arange(0, BN), tl.arange(0, BK)
    PARTS: tl.constexpr = CO // BK
    sums = tl.zeros((BM, BN), tl.float32)
    for i in tl.range(0, KERNEL * KERNEL * PARTS, num_stages=STAGES):
        tap, co = i // PARTS, (i % PARTS) * BK + k
        # Output (oh, ow) reads input (oh * STRIDE + tap - KERNEL // 2): those that read this pixel.
        th = ih + KERNEL // 2 - tap // KERNEL
        tw = iw + KERNEL // 2 - tap % KERNEL
        oh, ow = th // STRIDE, tw // STRIDE
        ok = (th >= 0) & (oh < HO) & (tw >= 0) & (ow < WO) & inside
        if STRIDE > 1:
            ok = ok & (th % STRIDE == 0) & (tw % STRIDE == 0)
        a = tl.load(
            dout + t * DOUT + ((n * HO + oh) * WO + ow)[:, None] * CO + co[None, :], mask=ok[:, None], other=0.0
        )
        b = tl.load(w + t * W + (tap * CI + ci)[None, :] * CO + co[:, None])
        sums = multiplied(a, b, sums)
    if PROJECT:
        oh, ow = ih // STRIDE, iw // STRIDE
        ok = (ih % STRIDE == 0) & (iw % STRIDE == 0) & inside
        for i in tl.range(0, PARTS, num_stages=STAGES):
            co = i * BK + k
            a = tl.load(
                dskip + t * DOUT + ((n * HO + oh) * WO + ow)[:, None] * CO + co[None, :], mask=ok[:, None], other=0.0
            )
            b = tl.load(w_skip + t * W + ci[None, :] * CO + co[:, None])
            sums = multiplied(a, b, sums)
    at = t * DIN + m[:, None] * CI + ci[None, :]
    if SKIP:
        sums += tl.load(skip + at, mask=inside[:, None], other=0.0).to(tl.float32)
    before = tl.load(raw + at, mask=inside[:, None], other=0.0)
    if FOLD:
        alive = _normalised(before, inside[:, None], stat + t * STAT, ci, y, CI) > 0
    else:
        alive = tl.load(y + at, mask=inside[:, None], other=0.0) > 0
    value = rounded(tl.where(alive, sums, 0.0), din)
    tl.store(din + at, value, mask=inside[:, None])
    value = value.to(tl.float32)
    mean, rate = tl.load(stat + t * STAT + ci), tl.load(stat + t * STAT + CI + ci)
    apart = (before.to(tl.float32) - mean[None, :]) * rate[None, :]
    to = part + (t * TILES + block) * (2 * CI) + ci
    tl.store(to, tl.sum(value, 0))
    tl.store(to + CI, tl.sum(value * apart, 0))


@triton.jit
def _gradient_of_weights(
    program,
    t,
    x,
    dout,
    sums_to,
    stat,
    X,
    DOUT,
    SUMS,
    ROWS,
    SHARE: tl.constexpr,
    HI: tl.constexpr,
    WI: tl.constexpr,
    CI: tl.constexpr,
    HO: tl.constexpr,
    WO: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    BK: tl.constexpr,
    BJ: tl.constexpr,
    BN: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Over SHARE of the pixels; rows are (kernel height, kernel width, in). `update` adds the shares up."""
    GROUPS: tl.constexpr = (KERNEL * KERNEL * CI + BJ - 1) // BJ
    TILES: tl.constexpr = CO // BN
    share, group, tile = program // (GROUPS * TILES), (program // TILES) % GROUPS, program % TILES
    j, co = group * BJ + tl.arange(0, BJ), tile * BN + tl.arange(0, BN)
    tap, ci = j // CI, j % CI
    kh, kw = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
    real = j < KERNEL * KERNEL * CI
    x += t * X
    dout += t * DOUT
    sums = tl.zeros((BJ, BN), tl.float32)
    for k in tl.range(0, SHARE, BK, num_stages=STAGES):
        m = share * SHARE + k + tl.arange(0, BK)
        inside = m < ROWS
        ow, oh, n = m % WO, (m // WO) % HO, m // (WO * HO)
        ih = oh[:, None] * STRIDE + kh[None, :]
        iw = ow[:, None] * STRIDE + kw[None, :]
        ok = (ih >= 0) & (ih < HI) & (iw >= 0) & (iw < WI) & real[None, :] & inside[:, None]
        a = tl.load(x + ((n[:, None] * HI + ih) * WI + iw) * CI + ci[None, :], mask=ok, other=0.0)
        if FOLD:
            a = _normalised(a, ok, stat, ci, x, CI)
        b = tl.load(dout + m[:, None] * CO + co[None, :], mask=inside[:, None], other=0.0)
        sums = multiplied(tl.trans(a), b, sums)
    to = sums_to + t * SUMS + share * (KERNEL * KERNEL * CI * CO) + j[:, None] * CO + co[None, :]
    tl.store(to, sums, mask=real[:, None])


@triton.jit
def gradient_of_weights(
    x,
    dout,
    sums_to,
    stat,
    X,
    DOUT,
    STAT,
    SUMS,
    ROWS,
    SHARE: tl.constexpr,
    HI: tl.constexpr,
    WI: tl.constexpr,
    CI: tl.constexpr,
    HO: tl.constexpr,
    WO: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    BK: tl.constexpr,
    BJ: tl.constexpr,
    BN: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """`sums_to` (shares, kernel height, kernel width, in, out) float32: of each share of the pixels."""
    after_those_before(EARLY)
    _gradient_of_weights(
        tl.program_id(0),
        tl.program_id(2).to(tl.int64),
        x,
        dout,
        sums_to,
        stat + tl.program_id(2).to(tl.int64) * STAT,
        X,
        DOUT,
        SUMS,
        ROWS,
        SHARE,
        HI,
        WI,
        CI,
        HO,
        WO,
        CO,
        STRIDE,
        KERNEL,
        BK,
        BJ,
        BN,
        FOLD,
        STAGES,
    )


@triton.jit
def gradients(
    x,
    dout,
    w,
    din,
    part,
    raw,
    stat,
    skip,
    dskip,
    w_skip,
    sums_to,
    X,
    W,
    DOUT,
    STAT,
    SUMS,
    ROWS_IN,
    ROWS_OUT,
    HI: tl.constexpr,
    WI: tl.constexpr,
    CI: tl.constexpr,
    HO: tl.constexpr,
    WO: tl.constexpr,
    CO: tl.constexpr,
    STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    TILES: tl.constexpr,
    SKIP: tl.constexpr,
    PROJECT: tl.constexpr,
    SHARE: tl.constexpr,
    WBK: tl.constexpr,
    WBJ: tl.constexpr,
    WBN: tl.constexpr,
    OF_WEIGHTS: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Both gradients of a convolution whose input is x = relu(norm(raw) ...), side by side: each alone fills no GPU.

    The first OF_WEIGHTS programs are for the weights. The others: din = (gradient of x + `skip`, or + `dskip` back
    through the 1x1 convolution `w_skip` of the same stride) where x > 0, and the sums for the norm's way back.
    """
    after_those_before(EARLY)
    program, t = tl.program_id(0), tl.program_id(2).to(tl.int64)
    if program < OF_WEIGHTS:
        _gradient_of_weights(
            program,
            t,
            x,
            dout,
            sums_to,
            stat + t * STAT,
            X,
            DOUT,
            SUMS,
            ROWS_OUT,
            SHARE,
            HI,
            WI,
            CI,
            HO,
            WO,
            CO,
            STRIDE,
            KERNEL,
            WBK,
            WBJ,
            WBN,
            FOLD,
            STAGES,
        )
    else:
        _gradient_of_input(
            program - OF_WEIGHTS,
            t,
            dout,
            w,
            din,
            part,
            x,
            raw,
            stat,
            skip,
            dskip,
            w_skip,
            W,
            DOUT,
            X,
            STAT,
            ROWS_IN,
            HI,
            WI,
            CI,
            HO,
            WO,
            CO,
            STRIDE,
            KERNEL,
            BM,
            BN,
            BK,
            TILES,
            SKIP,
            PROJECT,
            FOLD,
            STAGES,
        )
