"""Loops compiled by numba where it is installed, plain Python with the same result where it is not.

The compiled code is kept beside the module (or in numba's user folder when that is read-only), so
the few seconds of compiling are spent once a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

HAVE_NUMBA = numba is not None
"""Whether `compiled` compiles."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a loop with numba, cached on disk; without numba return it as it is.

    Args:
        function: A function of arrays and scalars that numba's nopython mode accepts.

    Returns:
        The compiled function, or the function itself.
    """
    if numba is None:
        return function
    try:
        loop: Any = numba.njit(cache=True)(function)
    except RuntimeError:
        # No folder to keep the cache in (read-only installation and home): compile every time.
        loop = numba.njit(function)
    return cast(_Function, loop)
