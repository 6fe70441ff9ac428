"""How the kernels are compiled.

Responsible for the two decorators that compiled rooms share, and for an instruction that Python has no name for.
A function that takes arrays counts references to them: a locked addition for each array that it passes on or takes a
slice of, a quarter of the whole time when it was measured. No kernel keeps an array, gives one back or makes one, so
there is nothing to count: whoever calls the outermost one holds the arrays. Not responsible for the cache (``kernel``).
"""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.extending import intrinsic

#: Without reference counts; so are all compiled functions that it calls first. None may make an array, a list or a
#: copy (``a[:2] = b[:2]`` makes one, in case the two overlap): Numba refuses to compile it, "NRT required".
bare = njit(_nrt=False)
#: The same, and a division by zero gives infinity or not-a-number, as in NumPy, instead of a test at each division.
kernel = njit(_nrt=False, error_model="numpy")


@intrinsic
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001 - Numba reads their number
    """Return ``a * b + c``, rounded once (IEEE 754 fusedMultiplyAdd), for float64: half the wait of two operations."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), build
