"""Which device to work on, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from cxr.errors import ParameterError


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


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in `half_type` where the device has one."""
    kind = half_type(device)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
