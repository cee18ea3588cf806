"""Each kernel of our own against PyTorch in float64: random values, several trials, outputs that were NaN before."""

import pytest
import torch
from fused.fused_parts import APART, DEVICE, Layers, Parts, nchw, near, normed
from torch.nn.functional import cross_entropy

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("added", [False, True])
def test_convolution_of_the_batch_and_norm(dtype: torch.dtype, added: bool) -> None:
    """Of 3 channels; of a height and width that nothing divides; means far from 0 beside the deviations."""
    torch.manual_seed(0)
    parts = Parts.of(Layers(3, 16, 16), dtype, {})
    x = parts.images("given x", (5, 7, 9, 3))
    x.tensor.add_(20)
    more = parts.images("given more", (5, 7, 9, 16)) if added else None
    made = normed(parts, x, more)
    parts.poison()
    before = [parts.in_float64(trial) for trial in range(2)]
    parts.run()
    for trial, network in enumerate(before):
        raw = network.first(nchw(x, trial))
        near(nchw(made.raw, trial), raw, APART[dtype])
        # From here on of what was stored: means 100 times the deviation lose digits in bfloat16.
        spread = network.norm(nchw(made.raw, trial))
        wanted = torch.relu(spread if more is None else spread + nchw(more, trial))
        near(nchw(made.out, trial), wanted, max(APART[dtype], 1e-4))
        mean, variance = parts.parameters.running[trial].chunk(2)
        near(mean, network.norm.running_mean, 1e-5)
        near(variance, network.norm.running_var, 1e-4)


# In, middle and out of both convolutions, the second's kernel and stride, height and width; what else reads its input.
CASES = [
    ((1, 16, 16, 3, 1, (6, 6)), ""),
    ((1, 16, 16, 3, 1, (6, 6)), "added"),
    ((3, 16, 32, 3, 2, (8, 8)), "projected"),
    ((3, 32, 64, 3, 2, (7, 5)), "projected"),
    ((3, 64, 64, 3, 1, (4, 4)), "added"),
    ((3, 48, 16, 3, 1, (5, 4)), "projected"),
    ((2, 128, 32, 1, 2, (4, 6)), ""),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "skip"), CASES)
def test_a_convolution_and_both_its_gradients(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int, tuple[int, int]], skip: str
) -> None:
    """And the norm's way back, and the first convolution's weights: every gradient that a block needs."""
    torch.manual_seed(1)
    inputs, middle, outputs, kernel, stride, (height, width) = shape
    images, to = 3, (-(-height // stride), -(-width // stride))
    pixels = images * to[0] * to[1]
    parts = Parts.of(
        Layers(inputs, middle, outputs, kernel, stride),
        dtype,
        {"first": images * height * width, "second": pixels, "projection": pixels},
    )
    passes = parts.passes
    x = parts.images("given x", (images, height, width, inputs))
    before = normed(parts, x)
    beside = parts.images("given beside", (images, *to, outputs))
    out = passes.convolve("second", before.out, beside, sums=False)
    dout = parts.images("given dout", (images, *to, outputs))
    along = middle if skip == "added" else outputs
    size = (height, width) if skip == "added" else to
    dskip = parts.images("given dskip", (images, *size, along)) if skip else None
    if skip == "projected":
        assert dskip is not None
        passes.weights_back("projection", before.out, dskip)
    dy = passes.convolve_back("second", before, dout, "din", dskip, "projection" if skip == "projected" else None)
    dx = passes.norm_back(before, dy, None)
    passes.weights_back("first", x, dx)
    parts.poison()
    parts.run()
    for trial in range(2):
        network = parts.in_float64(trial)
        y = network.activated(nchw(x, trial))
        made = network.second(y)
        near(nchw(out, trial), made + nchw(beside, trial), APART[dtype])
        total = (made * nchw(dout, trial)).sum()
        if dskip is not None:
            total += ((y if skip == "added" else network.projection(y)) * nchw(dskip, trial)).sum()
        total.backward()
        names = ["first.weight", "norm.weight", "norm.bias", "second.weight"]
        for name in (*names, *(["projection.weight"] if skip == "projected" else [])):
            gradient = network.get_parameter(name).grad
            assert gradient is not None
            # A ReLU that rounding turns over is a whole gradient more or less.
            near(parts.gradient(name, trial), gradient, APART[dtype] * 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "channels", "size"), [(10, 64, (2, 2)), (100, 32, (3, 5)), (3, 16, (1, 1))])
def test_head_and_its_gradients(dtype: torch.dtype, classes: int, channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    images = 7
    parts = Parts.of(Layers(3, channels, 16, classes=classes), dtype, {"first": images * size[0] * size[1]})
    x = parts.images("given x", (images, *size, 3))
    labels = parts.memory.get("given labels", (images,), torch.int64)
    labels.copy_(torch.randint(classes, labels.shape))
    last = normed(parts, x)
    dy = parts.passes.head(last, labels)
    parts.passes.weights_back("first", x, parts.passes.norm_back(last, dy))
    kept = [
        torch.zeros(2, dtype=d, device=DEVICE) for d in (torch.float64, torch.float32, torch.float32, torch.float64)
    ]
    position = torch.tensor([4, 2], device=DEVICE)
    parts.passes.head_gradients(*kept, position, batches=5)
    parts.poison()
    parts.run()
    loss_sum, latest, stopped, iteration = kept
    for trial in range(2):
        network = parts.in_float64(trial)
        logits = network.dense(network.activated(nchw(x, trial)).mean((2, 3)))
        loss = cross_entropy(logits, labels[trial].cpu())
        loss.backward()
        near(loss_sum[trial], loss.detach(), APART[dtype])
        for name in ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "first.weight"):
            gradient = network.get_parameter(name).grad
            assert gradient is not None
            near(parts.gradient(name, trial), gradient, APART[dtype] * 4)
    assert latest.double().tolist() == pytest.approx(loss_sum.tolist(), rel=1e-6)
    assert stopped.tolist() == [0, 0]
    assert iteration.tolist() == [1, 1]
    assert position.tolist() == [0, 3]


def test_the_first_loss_that_is_not_finite_stays() -> None:
    """Number and value; the sum goes on, and so does the place in the epoch."""
    torch.manual_seed(3)
    parts = Parts.of(Layers(3, 16, 16), torch.float32, {"first": 8})
    x = parts.images("given x", (2, 2, 2, 3))
    labels = parts.memory.get("given labels", (2,), torch.int64)
    last = normed(parts, x)
    parts.passes.head(last, labels)
    kept = [
        torch.zeros(2, dtype=d, device=DEVICE) for d in (torch.float64, torch.float32, torch.float32, torch.float64)
    ]
    parts.passes.head_gradients(*kept, torch.zeros(2, dtype=torch.int64, device=DEVICE), batches=5)
    _, latest, stopped, iteration = kept
    parts.run()
    x.tensor[1, 0, 0, 0, 0] = torch.inf
    for _ in range(3):
        parts.run()
    assert stopped.tolist() == [0, 1]
    assert iteration.tolist() == [4, 1]
    assert latest.isfinite().tolist() == [True, False]
