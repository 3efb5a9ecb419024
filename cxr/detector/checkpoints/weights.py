"""Pretrained weights into a network: from a file, from torchvision or timm, or none."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_weight

from cxr import files
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.grey import fold_grey_stem
from cxr.detector.network.registry import Architecture, architecture
from cxr.detector.network.timm_backbone import pretrained
from cxr.detector.recipe import PUBLISHERS
from cxr.errors import CheckpointError

log = logging.getLogger("cxr")

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "teacher", "student")
_BACKBONE_HOMES = ("", "backbone.", "backbone.body.")


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file gave a network.

    Attributes:
        source: Where the weights came from, in words.
        loaded: Names of the parameters that were set.
        missing: Names of the network's parameters left at their random start.
        unused: Names in the file that found no place, or only one of another shape.
        sha256: Of the file; empty where there is none.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    sha256: str

    @property
    def message(self) -> str:
        """One line for the log."""
        if not self.loaded:
            return f"weights: {self.source}"
        parts = f"weights: {self.source}: {len(self.loaded)} tensors loaded"
        if self.missing:
            parts += f"; {len(self.missing)} stay random ({_heads(self.missing)})"
        if self.unused:
            parts += f"; {len(self.unused)} in the file not used ({_heads(self.unused)})"
        return parts


def load_weights(
    net: DetectionNetwork, weights: str, *, architecture_name: str, sha256: str = ""
) -> WeightsReport:
    """Set a network's parameters from pretrained weights and say what happened.

    The names in a file may be those of a whole torchvision detector, of a backbone alone
    (ImageNet, or any chest X-ray backbone of the same architecture), or of a checkpoint of
    this project; common wrappers and prefixes are recognised by which reading fits most
    tensors. A stem for three colour channels is folded into one grey channel.

    Args:
        net: Network to change in place.
        weights: "" for a random start, "torchvision" for its COCO detector or "timm" for its
            backbone (both need a network connection or what an earlier one left in the cache),
            else the path of a file (`.pt`, `.pth`, `.ckpt` or `.safetensors`).
        architecture_name: The network's name in the registry.
        sha256: Expected hash of the file, hexadecimal; "" to not check.

    Raises:
        CheckpointError: No such file, a wrong hash, an unsafe or foreign file, nothing in
            it that fits, or no connection for "torchvision" or "timm".
    """
    if not weights:
        if architecture(architecture_name).stem:
            log.warning("no pretrained weights: %s is far worse without, on few images", architecture_name)
        return WeightsReport(
            "none, the network starts from random weights", (), tuple(net.state_dict()), (), ""
        )
    if weights in PUBLISHERS:
        digest = ""
        source, state = _published(architecture_name, weights)
    else:
        path = Path(weights)
        digest = check_hash(path, sha256)
        source, state = str(path), read_state(path)
    return _fit(net, state, source=source, sha256=digest, entry=architecture(architecture_name))


def check_hash(path: Path, expected: str = "") -> str:
    """The hash of a model file, after comparing it with the one expected or the one beside the file.

    A file without either is taken, with a warning.

    Raises:
        CheckpointError: No such file, or its hash is another one: it was changed or damaged.
    """
    digest = files.check_sha256(path, expected, error=CheckpointError)
    if not expected and not files.sidecar(path).is_file():
        name = files.sidecar(path).name
        log.warning("%s: no %s beside it to check it against; damage would go unseen", path, name)
    return digest


def check_finite(state: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights that are not numbers: a network of them finds nothing, and would not say why.

    Args:
        state: Tensors by name.
        source: Where they came from, for the message.

    Raises:
        CheckpointError: A tensor holds NaN or infinity; the message names it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: expected finite weights, got NaN or infinity in {name}")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, nothing in it being executed.

    Raises:
        CheckpointError: The file is not one of tensors, or needs unpickling of more than that.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # for these files alone, and Kaggle's image may lack it

        try:
            return load_file(path)
        except Exception as error:  # safetensors raises its own type, OSError and ValueError
            raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    content = read_checkpoint(path)
    for _ in range(2):
        for name in _WRAPPERS:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(
            f"{path}: expected a state dict, found no tensors (keys {_heads(map(str, content))})"
        )
    averaged = {
        name.removeprefix("average."): v for name, v in state.items() if name.startswith("average.net.")
    }
    return averaged or state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a torch file of plain data and tensors.

    Raises:
        CheckpointError: The file is damaged or holds objects other than plain data.
    """
    if path.is_file():
        with path.open("rb") as file:
            begin = file.read(2)
        if not (begin == b"PK" or begin[:1] == b"\x80"):  # torch's zip files, and its pickles before 1.6
            got = f"one that begins {begin!r}" if begin else "an empty file"
            raise CheckpointError(f"{path}: expected a torch file, got {got}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a file of weights, found none at {path}") from error
    except Exception as error:  # unpickling and zip reading raise many kinds
        # Torch's own words are left out: they advise to load the file in a way that runs its code.
        raise CheckpointError(
            f"{path}: expected a torch file of tensors and plain data, which loads without running code. "
            "This one is damaged or holds other objects. Save the state dict alone, or convert it to "
            "safetensors"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return dict(content)


def _published(architecture_name: str, publisher: str) -> tuple[str, Mapping[str, Tensor]]:
    """Where a publisher's weights come from, in words, and the weights."""
    entry = architecture(architecture_name)
    name = {"torchvision": entry.coco, "timm": entry.timm}[publisher]
    if not name:
        what = "detector weights" if publisher == "torchvision" else "weights"
        raise CheckpointError(f"{publisher} publishes no {what} for {architecture_name!r}; give a file or ''")
    try:
        if publisher == "timm":
            return f"timm's {name}", pretrained(name)
        state = get_weight(f"{name}.DEFAULT").get_state_dict(progress=False, check_hash=True)
        return f"torchvision's {name}", state
    except Exception as error:  # URLError, HTTPError, OSError, RuntimeError for a bad hash or for no weights
        raise CheckpointError(
            f"weights={publisher!r} could not be fetched ({str(error).splitlines()[0]}); "
            f"download those of {name} elsewhere and give the file's path"
        ) from error


def _fit(
    net: DetectionNetwork, state: Mapping[str, Tensor], *, source: str, sha256: str, entry: Architecture
) -> WeightsReport:
    own, stem = net.state_dict(), entry.stem
    readings = [
        _reading(own, state, strip, home, entry) for strip in _prefixes(state) for home in _BACKBONE_HOMES
    ]
    matched, unused = max(readings, key=lambda reading: len(reading[0]))
    if f"{stem}.weight" in matched and f"{stem}.bias" not in matched:
        # A one-channel stem has no bias; ours holds that of a colour stem folded into grey.
        matched[f"{stem}.bias"] = torch.zeros_like(own[f"{stem}.bias"])
    if stem == "backbone.body.conv1" and _froze_with_no_epsilon(matched):
        for name in matched:
            if name.endswith("running_var"):
                matched[name] = matched[name] - nn.BatchNorm2d(1).eps
    # Counters of batch normalisation fit anything: they do not make a file ours.
    if not any(own[name].dim() > 0 for name in matched):
        raise CheckpointError(f"{source}: nothing fits this network (the file has {_heads(state)})")
    check_finite(matched, source)
    net.load_state_dict(matched, strict=False)
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = tuple(name for name in own if name not in matched and name not in counters)
    return WeightsReport(source, tuple(matched), missing, tuple(unused), sha256)


def _froze_with_no_epsilon(matched: Mapping[str, Tensor]) -> bool:
    """Whether these are torchvision's first Faster R-CNN weights, or of their kind.

    Their batch normalisation was frozen and divides by `sqrt(variance)`, where ours divides by
    `sqrt(variance + eps)`: eps is then taken off the variances. They are known by being a whole
    detector without the counters that trained batch normalisation has.

    References:
        torchvision's `overwrite_eps`, https://github.com/pytorch/vision/pull/2933.
    """
    names = list(matched)
    return any(n.startswith("roi_heads.") for n in names) and not any("num_batches" in n for n in names)


def _prefixes(state: Mapping[str, Tensor]) -> set[str]:
    """Leading parts of the names that may be wrapping: "", "module.", "net.backbone." and the like."""
    found = {""}
    for name in state:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) + "." for depth in (1, 2) if len(parts) > depth)
    return found


def _reading(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], strip: str, home: str, entry: Architecture
) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors under one reading of its names: those that fit, and the rest's names."""
    matched: dict[str, Tensor] = {}
    unused: list[str] = []
    stem = entry.stem
    for name, value in state.items():
        place = home + name.removeprefix(strip) if name.startswith(strip) else ""
        if stem and place == f"{stem}.weight" and value.dim() == 4 and value.shape[1] == 3:
            weight, bias = fold_grey_stem(value, entry.colour)
            if weight.shape == own[place].shape:
                before = state.get(name.removesuffix("weight") + "bias")
                matched[place] = weight
                matched[f"{stem}.bias"] = bias if before is None else bias + before
                continue
        if place in own and own[place].shape == value.shape:
            matched.setdefault(place, value)  # the stem's folded bias may be there already
        else:
            unused.append(name)
    return matched, unused


def _heads(names: Iterable[str], *, most: int = 4) -> str:
    """The first parts of names, for a message: "roi_heads.box_predictor, backbone.fpn, ..."."""
    heads = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
    return ", ".join(heads[:most]) + (", ..." if len(heads) > most else "")
