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


def has_tiles() -> bool:
    """Whether the CPU has tiles for products of bfloat16 matrices (Intel's AMX)."""
    # A private name of torch, which has no public one for this.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and bool(supported())


def describe_device(device: torch.device, kind: torch.dtype | None, *, require_gpu: bool) -> str:
    """Device, memory and precision in words.

    Args:
        device: Where the work is to be done.
        kind: 16-bit type in which it is done; None for float32.
        require_gpu: Refuse a CPU.

    Raises:
        ParameterError: A CPU where a GPU is required, or a GPU that this PyTorch has no code for.
    """
    if device.type != "cuda":
        if require_gpu:
            raise ParameterError("accelerator: expected a GPU, found none; cpu asks for none")
        return f"device: CPU, {torch.get_num_threads()} threads, {_name(kind)}"
    about, count = torch.cuda.get_device_properties(device), torch.cuda.device_count()
    if not has_code_for((about.major, about.minor), torch.cuda.get_arch_list()):
        raise ParameterError(
            f"{about.name} has compute capability {about.major}.{about.minor}, and this PyTorch "
            f"({torch.__version__}) has code for {' '.join(torch.cuda.get_arch_list())} only: no operation "
            "would work; ask for another GPU"
        )
    return f"device: {count} x {about.name}, {about.total_memory / 2**30:.1f} GiB each, {_name(kind)}"


def _name(kind: torch.dtype | None) -> str:
    return str(kind or torch.float32).removeprefix("torch.")


def has_code_for(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether code built for some kinds of GPU runs on one.

    Machine code (`sm_75`) runs on GPUs of its major version with the same or a higher minor one;
    intermediate code (`compute_90`) on all later ones.

    Args:
        capability: Compute capability of the GPU, major and minor.
        built_for: As `torch.cuda.get_arch_list` gives it.
    """
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = "".join(filter(str.isdigit, number))
        built = int(digits[:-1]), int(digits[-1])
        same = built[0] == capability[0] and built <= capability
        if same or (kind == "compute" and built <= capability):
            return True
    return False


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in `half_type` where the device has one."""
    kind = half_type(device)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
