"""A few steps on made-up images before hours of work: whether it will run here, and how fast.

What fails in the third hour (a device without code for it, weights that do not fit, a batch that does
not fit into memory) fails in the first minute of a rehearsal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from cxr.detector.checkpoints.shipped import start_of
from cxr.detector.checkpoints.weights import load_weights
from cxr.detector.data.batches import padded
from cxr.detector.network.anchors import fit_anchors
from cxr.detector.network.base import DetectionNetwork, freeze_batch_norm
from cxr.detector.network.device import autocast, describe_device, half_type, pick_device
from cxr.detector.network.registry import architecture, build_network
from cxr.detector.network.spec import Answers, DetectorSpec
from cxr.detector.prediction.detector import Detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe
from cxr.detector.training.launch import training_type
from cxr.detector.training.plan import freezes_batch_norm
from cxr.errors import ParameterError
from cxr.schema import ClassTable


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal showed.

    Attributes:
        device: Devices, memory and precision, in words.
        devices: CUDA devices to work with; 1 where the work is the CPU's.
        train_seconds: Of one image in a training step on one device.
        predict_seconds: Of one image, all looks and all detectors.
        weights: What the training starts from, in words; empty where nothing is trained.
    """

    device: str
    devices: int
    train_seconds: float
    predict_seconds: float
    weights: str


def rehearse_training(recipe: Recipe, looks: Looks, classes: ClassTable) -> Rehearsal:
    """Make the network, load its weights, take training steps and look at an image.

    Args:
        recipe: How the detector will be trained.
        looks: How it will look at images.
        classes: The data set's classes.

    Raises:
        ParameterError: No device as asked for, one that this PyTorch has no code for, or a batch that does
            not fit into its memory.
        CheckpointError: Weights that cannot be used.
    """
    device = pick_device("cpu" if recipe.machine.accelerator == "cpu" else "auto")
    sizes = [round(recipe.network.detector_image_size * factor) for factor in recipe.augmentation.multi_scale]
    kind = training_type(recipe, device)
    words = describe_device(device, kind, require_gpu=recipe.machine.accelerator != "cpu")
    net, weights = _network(recipe, classes)
    net.to(device)
    size, batch = max(sizes), recipe.sampling.batch_size
    try:
        seconds = _seconds(_training_step(net, size, batch, device, kind), device) / batch
        look = _look_seconds(net, recipe.network.detector_image_size, looks, device)
    except torch.cuda.OutOfMemoryError:
        raise ParameterError(
            f"batch_size {batch} at {size} px does not fit into the memory of the device ({words}); "
            "halve batch_size and double accumulate"
        ) from None
    devices = max(1, torch.cuda.device_count()) if device.type == "cuda" else 1
    if device.type == "cuda" and recipe.machine.devices > devices:
        raise ParameterError(f"devices: expected at most {devices}, got {recipe.machine.devices} ({words})")
    return Rehearsal(words, recipe.machine.devices or devices, seconds, look, weights)


def rehearse_prediction(detectors: Sequence[Detector], looks: Looks, *, accelerator: str) -> Rehearsal:
    """Let detectors look at a made-up image.

    Args:
        detectors: On their device.
        looks: How they will look at images.
        accelerator: "cpu", or anything else for a GPU.

    Raises:
        ParameterError: See `rehearse_training`.
    """
    device = detectors[0].device
    words = describe_device(device, half_type(device), require_gpu=accelerator != "cpu")
    seconds = sum(_look_seconds(d.net, d.spec.image_size, looks, device) for d in detectors)
    return Rehearsal(words, 1, 0.0, seconds, "")


def _network(recipe: Recipe, classes: ClassTable) -> tuple[DetectionNetwork, str]:
    """The network of a recipe with its weights, and usual anchors: its boxes are not known yet."""
    network = recipe.network
    entry = architecture(network.architecture_name)
    sizes, ratios = fit_anchors(
        np.empty((0, 4)), strides=entry.strides, sizes_per_level=max(1, entry.sizes_per_level)
    )
    if not entry.sizes_per_level:
        sizes, ratios = (), ()
    size = network.detector_image_size
    net = build_network(DetectorSpec(network.architecture_name, tuple(classes.names), size, sizes, ratios))
    report = load_weights(
        net,
        start_of(network.weights, network.architecture_name),
        architecture_name=network.architecture_name,
        sha256=network.weights_sha256,
    )
    if freezes_batch_norm(recipe):
        freeze_batch_norm(net)
    return net, report.message


def _training_step(
    net: DetectionNetwork, size: int, batch: int, device: torch.device, kind: torch.dtype | None
) -> Callable[[], object]:
    net.train()
    images, sizes = _images(size, batch, device)
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.9, 0.8]], device=device) * size
    target = {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64, device=device)}
    target["box_weights"] = torch.ones(2, device=device)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.0, foreach=True)

    def step() -> None:
        with torch.autocast(device.type, dtype=kind) if kind else nullcontext():
            losses = net(images, sizes, [target] * batch)
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


@torch.inference_mode()
def _look_seconds(net: DetectionNetwork, size: int, looks: Looks, device: torch.device) -> float:
    """Seconds that all looks at one image take."""
    net.eval()
    net.set_answers(Answers(looks.score_floor, looks.max_boxes))
    total = 0.0
    for scale in looks.tta_scales:
        images, sizes = _images(max(32, round(size * scale)), 1, device)

        def look(images: torch.Tensor = images, sizes: list[tuple[int, int]] = sizes) -> None:
            with autocast(device):
                net(images, sizes)

        total += _seconds(look, device) * (2 if looks.tta_flip else 1)
    return total


def _images(size: int, batch: int, device: torch.device) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Noise of the largest shape: radiographs are at most square."""
    side = padded(size)
    noise = torch.rand((batch, 1, side, side), device=device)
    return noise, [(size, size)] * batch


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the better of two after a first one that makes everything ready."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
