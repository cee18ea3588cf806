"""The order of kernels for each family of networks."""

from torch import Tensor

from rewindctl.fused.forward import Forward
from rewindctl.fused.memory import Images, Normed
from rewindctl.fused.passes import Passes
from rewindctl.models import Network
from rewindctl.models.resnet import ResNet
from rewindctl.models.wrn import WideResNet

# Name and projection of each block, and its norms: a ResNet's before, between and after its convolutions; a WRN's
# before and between them, and whether it is the first of its group.
ResNetBlocks = list[tuple[str, str | None, Normed, Normed, Normed]]
WrnBlocks = list[tuple[str, str | None, Normed, Normed, bool]]


def forward(passes: Forward, network: Network, batch: Images) -> Normed:
    """The forward pass alone: what the head reads."""
    if isinstance(network, ResNet):
        return _resnet_forward(passes, network, batch)[1]
    assert isinstance(network, WideResNet)
    return _wrn_forward(passes, network, batch)[1]


def _resnet_forward(passes: Forward, network: ResNet, batch: Images) -> tuple[ResNetBlocks, Normed]:
    """The blocks, and the last norm."""
    before = passes.norm("norm", passes.first("stem", batch))
    blocks: ResNetBlocks = []
    for index, block in enumerate(network.blocks):
        name, x = f"blocks.{index}", before.out
        projection = None if block.projection is None else f"{name}.projection"
        shortcut = passes.convolve(projection, x, sums=False) if projection else x
        middle = passes.norm(f"{name}.norm1", passes.convolve(f"{name}.conv1", x), once=True)
        if projection:
            passes.let_go(x)
        inner = passes.convolve(f"{name}.conv2", middle)
        passes.let_go(middle.out)
        after = passes.norm(f"{name}.norm2", inner, shortcut)
        passes.let_go(shortcut)
        blocks.append((name, projection, before, middle, after))
        before = after
    return blocks, before


def resnet(passes: Passes, network: ResNet, batch: Images, labels: Tensor) -> None:
    """Forward and backward pass of a post-activation ResNet."""
    blocks, last = _resnet_forward(passes, network, batch)
    first = blocks[0][2]
    dy = passes.head(last, labels)
    for index, (name, project, before, middle, after) in enumerate(reversed(blocks)):
        inner = passes.norm_back(after, dy)
        inner = passes.norm_back(middle, passes.convolve_back(f"{name}.conv2", middle, inner, "middle"))
        if project:
            passes.weights_back(project, before.out, dy)
        dy = passes.convolve_back(f"{name}.conv1", before, inner, _other(index), dy, project)
    passes.weights_back("stem", batch, passes.norm_back(first, dy))


def _wrn_forward(passes: Forward, network: WideResNet, batch: Images) -> tuple[WrnBlocks, Normed]:
    """The blocks, and the last norm."""
    raw = passes.first("stem", batch)
    blocks: WrnBlocks = []
    for index, block in enumerate(network.blocks):
        name, leading = f"blocks.{index}", bool(block.leading)
        active = passes.norm(f"{name}.norm1", raw, once=not leading, again=not leading)
        shortcut = active.out if leading else raw
        projection = None if block.projection is None else f"{name}.projection"
        if projection:
            shortcut = passes.convolve(projection, shortcut, sums=False)
        middle = passes.norm(f"{name}.norm2", passes.convolve(f"{name}.conv1", active), once=True)
        if active.out is not shortcut:
            passes.let_go(active.out)
        raw = passes.convolve(f"{name}.conv2", middle, shortcut)
        passes.let_go(middle.out)
        passes.let_go(shortcut)
        blocks.append((name, projection, active, middle, leading))
    return blocks, passes.norm("norm", raw)


def wrn(passes: Passes, network: WideResNet, batch: Images, labels: Tensor) -> None:
    """Forward and backward pass of a pre-activation WRN."""
    blocks, last = _wrn_forward(passes, network, batch)
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
