# mypy: ignore-errors
"""What every kernel begins with, and the product that they share."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# NumPy has no bfloat16: Triton's interpreter multiplies its bit patterns, and cuts where a GPU rounds.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def after_those_before(EARLY: tl.constexpr):
    """EARLY: the kernel was started before the one that it reads from had ended, and waits for it here.

    Source: CUDA C++ programming guide, programmatic dependent launch (compute capability 9.0).
    """
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def multiplied(a, b, sums, SPLIT: tl.constexpr = False):
    """`sums` + a b: products and sums in float32, of float32 too (no TF32).

    SPLIT: each float32 is a sum of two TF32, of whose four products matrix units make all but the smallest.
    """
    if INTERPRETED:
        a = a.to(tl.float32)  # where the product of two bfloat16 is exact
        b = b.to(tl.float32)
    PRECISION: tl.constexpr = "tf32x3" if SPLIT and not INTERPRETED else "ieee"
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def rounded(value, to):
    """A float32 in the type that the pointer `to` points to: the nearest, the even one of two."""
    if INTERPRETED and to.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        value = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return value.to(to.dtype.element_ty)
