"""Which device to work on, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from cxr.errors import ParameterError

SMALLEST_HALF = 128
"""px, smallest image that a CPU trains on in 16 bits."""


def pick_device(device: str) -> torch.device:
    """A device by name; "auto" is the first CUDA device, else the CPU.

    Raises:
        ParameterError: No such device here.
    """
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    known = ["auto", "cpu", *(["cuda", *cuda] if cuda else [])]
    if device not in known:
        raise ParameterError(f"device: expected one of {', '.join(known)} here, got {device!r}")
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    return torch.device(device)


def half_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type in which a device multiplies fastest; None where that does not pay.

    bfloat16 on CUDA devices that have it in hardware, float16 on the older ones (T4, P100), which
    merely emulate it; nothing on a CPU, where bfloat16 can be fifteen times slower than float32.
    """
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def training_type(device: torch.device, *, image_size: int) -> torch.dtype | None:
    """The 16-bit type to train in; None for float32.

    `half_type`, and bfloat16 on CPUs with tiles for matrix products (Intel's AMX), which it makes half
    as fast again. Prediction stays in float32 there, so that every CPU gives the same boxes.

    Args:
        device: Where the training runs.
        image_size: Longer side of its smallest images, in pixels. Torch's CPU kernels read memory that
            nothing was written to where a map of bfloat16 has a single place, as below `SMALLEST_HALF`.
    """
    if device.type != "cpu":
        return half_type(device)
    # A private name of torch, which has no public one for this.
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return torch.bfloat16 if tiles is not None and tiles() and image_size >= SMALLEST_HALF else None


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in `half_type` where the device has one."""
    kind = half_type(device)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
