"""The order of kernels for each family of networks."""

from torch import Tensor

from rewindctl.fused.memory import Images, Normed
from rewindctl.fused.passes import Passes
from rewindctl.models.resnet import ResNet
from rewindctl.models.wrn import WideResNet


def resnet(passes: Passes, network: ResNet, batch: Images, labels: Tensor) -> None:
    """Forward and backward pass of a post-activation ResNet."""
    first = before = passes.norm("norm", passes.first("stem", batch))
    blocks: list[tuple[str, str | None, Normed, Normed, Normed]] = []
    for index, block in enumerate(network.blocks):
        name, x = f"blocks.{index}", before.out
        projection = None if block.projection is None else f"{name}.projection"
        shortcut = passes.convolve(projection, x, sums=False) if projection else x
        middle = passes.norm(f"{name}.norm1", passes.convolve(f"{name}.conv1", x), once=True)
        after = passes.norm(f"{name}.norm2", passes.convolve(f"{name}.conv2", middle), shortcut)
        blocks.append((name, projection, before, middle, after))
        before = after
    dy = passes.head(before, labels)
    for index, (name, project, before, middle, after) in enumerate(reversed(blocks)):
        inner = passes.norm_back(after, dy)
        inner = passes.norm_back(middle, passes.convolve_back(f"{name}.conv2", middle, inner, "middle"))
        if project:
            passes.weights_back(project, before.out, dy)
        dy = passes.convolve_back(f"{name}.conv1", before, inner, _other(index), dy, project)
    passes.weights_back("stem", batch, passes.norm_back(first, dy))


def wrn(passes: Passes, network: WideResNet, batch: Images, labels: Tensor) -> None:
    """Forward and backward pass of a pre-activation WRN."""
    raw = passes.first("stem", batch)
    blocks: list[tuple[str, str | None, Normed, Normed, bool]] = []
    for index, block in enumerate(network.blocks):
        name = f"blocks.{index}"
        active = passes.norm(f"{name}.norm1", raw, once=not block.leading)
        shortcut = active.out if block.leading else raw
        projection = None if block.projection is None else f"{name}.projection"
        if projection:
            shortcut = passes.convolve(projection, shortcut, sums=False)
        middle = passes.norm(f"{name}.norm2", passes.convolve(f"{name}.conv1", active), once=True)
        raw = passes.convolve(f"{name}.conv2", middle, shortcut)
        blocks.append((name, projection, active, middle, bool(block.leading)))
    last = passes.norm("norm", raw)
    dout = passes.norm_back(last, passes.head(last, labels), to=_other(-1))
    for index, (name, project, active, middle, leading) in enumerate(reversed(blocks)):
        inner = passes.norm_back(middle, passes.convolve_back(f"{name}.conv2", middle, dout, "middle"))
        if project:
            passes.weights_back(project, active.out, dout)
        of_active = dout if leading else None  # what else reads the activated input
        dactive = passes.convolve_back(f"{name}.conv1", active, inner, "middle", of_active, project)
        dout = passes.norm_back(active, dactive, None if leading else dout, _other(index))
    passes.weights_back("stem", batch, dout)


def _other(index: int) -> str:
    """The one of two tensors that the block before in the backward pass has not left its gradient in; `head` has 0."""
    return f"outer {1 - index % 2}"
