"""What follows from a recipe once the data and the machine are known: anchors, sizes, steps, rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cxr.detector.checkpoints.shipped import start_of
from cxr.detector.data.labels import Lesson
from cxr.detector.data.pixels import ImageSource
from cxr.detector.data.targets import build_targets
from cxr.detector.network.anchors import by_level, fit_anchors
from cxr.detector.network.registry import architecture
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.recipe import Network, Recipe
from cxr.schema import ClassTable


@dataclass(frozen=True)
class Plan:
    """Numbers of one training that its recipe leaves to a rule.

    Attributes:
        learning_rate: The schedule's largest.
        total_steps: Optimiser steps of the whole training.
        warmup_steps: Optimiser steps of the rise, for cosine and constant.
        freeze_batch_norm: Whether batch normalisation stays as it is.
        load_size: Longer side of the training images as loaded, in pixels; larger than the network's
            where views are cut from images that have more pixels.
    """

    learning_rate: float
    total_steps: int
    warmup_steps: int
    freeze_batch_norm: bool
    load_size: int


def describe_network(
    source: ImageSource, lesson: Lesson, *, network: Network, classes: ClassTable
) -> DetectorSpec:
    """The network's description, its anchors fitted to the boxes to learn where none are given.

    Raises:
        ParameterError: Unknown architecture, or anchor sizes that do not go into its levels.
        DataError: An image is not in the source.
    """
    entry = architecture(network.architecture_name)
    size = network.detector_image_size
    targets = build_targets(lesson.table, lesson.train_ids, source, image_size=size, classes=classes)
    sizes: tuple[tuple[float, ...], ...] = ()
    ratios: tuple[float, ...] = ()
    if entry.sizes_per_level:
        boxes = np.concatenate([np.empty((0, 4), np.float32), *[t.boxes for t in targets.values()]])
        sizes, ratios = fit_anchors(boxes, strides=entry.strides, sizes_per_level=entry.sizes_per_level)
        sizes = by_level(network.anchor_sizes, len(entry.strides)) if network.anchor_sizes else sizes
        ratios = network.aspect_ratios or ratios
    return DetectorSpec(network.architecture_name, tuple(classes.names), size, sizes, ratios)


def load_size(source: ImageSource, image_id: str, recipe: Recipe) -> int:
    """Longer side at which training images are loaded, in pixels.

    Larger views are cut from pixels that the source has. Where it has no more, they are stretched later.
    """
    size = recipe.network.detector_image_size
    stored = max(source[image_id].shape)
    return min(round(size * max(1.0, *recipe.augmentation.multi_scale)), max(size, stored))


def freezes_batch_norm(recipe: Recipe) -> bool:
    """Whether batch normalisation stays as it is: given weights' statistics beat those of a few images."""
    network = recipe.network
    given = bool(start_of(network.weights, network.architecture_name))
    rules = {"auto": given and recipe.sampling.batch_size < 8, "trained": False, "frozen": True}
    return rules[network.batch_norm]


def make_plan(recipe: Recipe, *, batches_per_epoch: int, processes: int, load_size: int) -> Plan:
    """The rules of steps and rates.

    The batch over all devices and accumulations decides the learning rate: AdamW's grows with the square
    root of the batch, SGD's with the batch.

    Args:
        recipe: How the detector is trained.
        batches_per_epoch: Of each process.
        processes: That train together.
        load_size: See `Plan`.
    """
    sampling, optimisation = recipe.sampling, recipe.optimisation
    rate = optimisation.learning_rate
    if rate == 0:
        growth = sampling.batch_size * sampling.accumulate * processes / 4
        own = architecture(recipe.network.architecture_name).learning_rate
        rate = 0.005 * growth if optimisation.optimizer == "sgd" else own * math.sqrt(growth)
    total = -(-batches_per_epoch // sampling.accumulate) * recipe.schedule.epochs
    return Plan(
        learning_rate=float(rate),
        total_steps=total,
        warmup_steps=min(recipe.schedule.warmup_steps, -(-total // 20)),
        freeze_batch_norm=freezes_batch_norm(recipe),
        load_size=load_size,
    )
