"""Detectors on disk: read from a training checkpoint or from safetensors, exported for inference.

Nothing is unpickled. A file's SHA-256 stands beside it and is checked when there, because
a flipped bit loads without complaint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxr.detector.checkpoints.weights import (
    check_finite,
    check_hash,
    read_checkpoint,
)
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.errors import CheckpointError, ParameterError
from cxr.files import recorded_sha256, replacing

FORMAT = "cxr-detector-1"


def read_detector(path: Path) -> tuple[DetectionNetwork, DetectorSpec, str]:
    """A network with its weights, its description and the file's hash.

    Args:
        path: A checkpoint of training (`.ckpt`) or an export (`.safetensors`). Of a
            checkpoint that keeps a weight average, the average is taken.

    Raises:
        CheckpointError: No such file, a hash that differs from the one beside it, or a file
            that is no detector of this project.
    """
    path = Path(path)
    digest = check_hash(path)
    spec, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)
    try:
        net = build_network(spec)
    except ParameterError as error:
        raise CheckpointError(
            f"{path}: its network cannot be built here ({error}). Install what is missing, use the version "
            "of this project that trained it, or train again"
        ) from error
    check_finite(state, path)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the network described in the file ({_first_line(error)})"
        ) from error
    return net.eval(), spec, digest


def is_detector(path: Path) -> bool:
    """Whether a file is a detector trained here, and not weights of other origin."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("format") == FORMAT
        parameters = read_checkpoint(path).get("hyper_parameters")
    except Exception:  # safetensors raises its own type; whoever loads the file will say what is wrong
        return False
    return isinstance(parameters, dict) and "spec" in parameters


def write_safetensors(net: DetectionNetwork, spec: DetectorSpec, path: Path) -> str:
    """Write a network for inference: weights and description in one file, no Lightning needed.

    The file appears complete, its hash beside it.

    Returns:
        SHA-256 of the file.
    """
    from safetensors.torch import save_file  # for exports alone, and Kaggle's image may lack it

    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    check_finite(state, "the network to export")
    with replacing(path, hashed=True) as temporary:
        save_file(state, temporary, metadata={"format": FORMAT, "spec": json.dumps(spec.to_dict())})
    return recorded_sha256(path)


def write_slim(net: DetectionNetwork, spec: DetectorSpec, path: Path) -> str:
    """Write a network for inference as a torch file: weights and description, no state of a training.

    Unlike safetensors it needs no package beside PyTorch. The file appears complete, its hash beside it.

    Returns:
        SHA-256 of the file.
    """
    state = {f"net.{name}": value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    check_finite(state, "the network to export")
    with replacing(path, hashed=True) as temporary:
        torch.save({"hyper_parameters": {"spec": spec.to_dict()}, "state_dict": state}, temporary)
    return recorded_sha256(path)


def _read_safetensors(path: Path) -> tuple[DetectorSpec, dict[str, Tensor]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises its own type and OSError
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected an exported detector ({FORMAT}), got {metadata.get('format')!r}"
        )
    return _described(path, metadata.get("spec", "")), state


def _described(path: Path, text: str) -> DetectorSpec:
    """The description in a safetensors file."""
    try:
        return DetectorSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: expected the description of a detector in the file, got {error}"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))


def _read_lightning(path: Path) -> tuple[DetectorSpec, dict[str, Tensor]]:
    content = read_checkpoint(path)
    parameters: Any = content.get("hyper_parameters")
    if not isinstance(parameters, dict) or "spec" not in parameters or "state_dict" not in content:
        raise CheckpointError(
            f"{path}: expected a checkpoint written by training here, got {sorted(map(str, content))[:6]}; "
            "weights of other origin go in as `weights` of a training"
        )
    state = content["state_dict"]
    home = "average.net." if any(name.startswith("average.net.") for name in state) else "net."
    return (
        DetectorSpec.from_dict(parameters["spec"]),
        {name.removeprefix(home): value for name, value in state.items() if name.startswith(home)},
    )
