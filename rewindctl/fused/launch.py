"""A kernel with all that it is started with, what it moves and computes, and what a compiler makes of it."""

import subprocess
import tempfile
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

WARP = 32
_INTERPRETER = threading.Lock()
POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Moved:
    """What a kernel reads or writes of a tensor, of all trials: `bytes`, each once, and `asked`, as its programs ask.

    They ask the cache of the whole device, L2, when they copy ahead of use (`stages` > 1): Triton then has
    `cp.async.cg`, which passes by the caches of the processors, so that each place of a kernel asks for a pixel anew.
    """

    tensor: Tensor
    bytes: int
    asked: int


@dataclass(frozen=True)
class Launch:
    """One start of a kernel: what it moves, and its `operations`, sums and products."""

    name: str
    kernel: Any
    grid: tuple[int, int, int]
    arguments: tuple[Tensor | int | float, ...]
    constants: dict[str, int | bool]
    warps: int = 4
    stages: int = 1
    read: tuple[Moved, ...] = ()
    written: tuple[Moved, ...] = ()
    operations: int = 0
    options: dict[str, bool] = field(default_factory=dict)

    def __call__(self, trials: int | None = None) -> None:
        """For the first so many trials, by default for all."""
        self.kernel[(*self.grid[:2], trials or self.grid[2])](
            *self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages, **self.options
        )

    def compile(self) -> None:
        """Leave the code for the GPU of this process in Triton's folder, and start nothing."""
        self.kernel.warmup(
            *self.arguments,
            grid=self.grid,
            **self.constants,
            num_warps=self.warps,
            num_stages=self.stages,
            **self.options,
        )

    @property
    def reads(self) -> int:
        """Bytes, each once."""
        return sum(one.bytes for one in self.read)

    @property
    def writes(self) -> int:
        """Bytes, each once."""
        return sum(one.bytes for one in self.written)

    @property
    def kernel_name(self) -> str:
        return str(self.kernel.fn.__name__ if hasattr(self.kernel, "fn") else self.kernel.__name__)

    @property
    def code(self) -> tuple[Any, ...]:
        """Equal for launches that run the same machine code."""
        kinds = tuple(_kind(argument) for argument in self.arguments)
        return (self.kernel_name, kinds, tuple(self.constants.items()), self.warps, self.stages)


@dataclass(frozen=True)
class Code:
    """What a compiler made of a kernel: per thread registers and bytes of spilled ones, per program shared bytes."""

    registers: int
    spilled: int
    shared: int


def compiled(launch: Launch, capability: int) -> Code:
    """Machine code for NVIDIA's compute capability `capability` (80, 90), made here, GPU or not.

    Only in a process without TRITON_INTERPRET. Raises: whatever Triton raises of a kernel that it cannot compile.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature: dict[str, str] = dict.fromkeys(launch.constants, "constexpr")
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, (name, argument) in enumerate(zip(names, launch.arguments, strict=False)):
        kind, divisible = _kind(argument)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = argument
        elif divisible:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, {name: signature[name] for name in names}, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, **launch.options}
    made = triton.compile(source, target=GPUTarget("cuda", capability, WARP), options=options)
    return Code(*_resources(made.asm["cubin"]), made.metadata.shared)


def started_on(device: torch.device) -> AbstractContextManager[Any]:
    """Around launches: Triton starts kernels on the current device, wherever their tensors are.

    Its interpreter has one state: one thread at a time.
    """
    return torch.cuda.device(device) if device.type == "cuda" else _INTERPRETER


def different(launches: Iterable[Launch]) -> list[Launch]:
    """The first of each that run the same machine code."""
    found: dict[tuple[Any, ...], Launch] = {}
    for launch in launches:
        found.setdefault(launch.code, launch)
    return list(found.values())


def _kind(argument: Tensor | int | float) -> tuple[str, bool]:
    """The type that Triton gives an argument, and whether it takes it for a multiple of 16."""
    if isinstance(argument, Tensor):
        return POINTERS[argument.dtype], argument.data_ptr() % 16 == 0
    if isinstance(argument, float):
        return "fp32", False
    if argument == 1:
        return "constexpr", False
    return ("i32" if -(2**31) <= argument < 2**31 else "i64"), argument % 16 == 0


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of the stack, a thread, as the code itself says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [_disassembler(), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = dict(word.split(":", 1) for word in said.split() if word.count(":") == 1)
    return int(found["REG"]), int(found["STACK"])


@cache
def _disassembler() -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(path) if path.exists() else "cuobjdump"
