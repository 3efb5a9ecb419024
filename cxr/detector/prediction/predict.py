"""Boxes of new images, in their original pixels, from one detector or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.detector.data.answers import Rows, answer_rows, detection_table
from cxr.detector.data.augment import mirror_labels
from cxr.detector.data.batches import RadiographDataset, like_shape_batches, make_loader
from cxr.detector.data.pixels import ImageSource
from cxr.detector.network.device import autocast
from cxr.detector.network.spec import Answers
from cxr.detector.prediction.detector import Detector, class_weights
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import ONE_LOOK, Looks
from cxr.errors import CheckpointError, DataError


def predict_store(
    detectors: Detector | Sequence[Detector],
    store: ImageSource,
    image_ids: Sequence[str],
    *,
    looks: Looks = ONE_LOOK,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Detections on images of a store, in original pixels.

    What one detector finds in its looks is fused (by weighted boxes a look that finds nothing lowers the
    scores of the others' boxes). Then it is calibrated, where a calibration is known. Then the detectors'
    answers are fused likewise, by their weights where those are known. The result does not depend on
    `batch_size`.

    Args:
        detectors: One or several, of the same classes.
        store: Image store.
        image_ids: Images to look at.
        looks: How to look, and how to fuse.
        batch_size: Largest batch; images of the same shape go together.
        num_workers: Loading processes.
        progress: Called with images done and all images, over all detectors.

    Returns:
        `schema.DETECTION_COLUMNS`, images in the order given, best boxes first.

    Raises:
        CheckpointError: The detectors were trained for different classes.
        DataError: An image is not in the store.
    """
    members = ensemble_of(detectors)
    image_ids = list(image_ids)
    absent = [image_id for image_id in image_ids if image_id not in store]
    if absent:
        raise DataError(f"{len(absent)} images are not in the image store, first {absent[0]!r}")
    counter = _Counter(progress, len(members) * len(looks.tta_scales) * len(image_ids))
    answers: list[pd.DataFrame] = []
    for detector in members:
        views: list[pd.DataFrame] = []
        for scale in looks.tta_scales:
            size = max(32, round(detector.spec.image_size * scale))
            dataset = RadiographDataset(store, image_ids, None, image_size=size, cache_mib=0)
            batches = like_shape_batches(dataset.sizes(), batch_size)
            found: list[dict[str, Rows]] = [{} for _ in range(1 + looks.tta_flip)]
            for batch in make_loader(dataset, batches, num_workers=num_workers):
                for place, rows in enumerate(_look(detector, batch, looks)):
                    found[place].update({row[0]: row for row in rows})
                counter.add(len(batch["image_ids"]))
            views += [detection_table([view[image_id] for image_id in image_ids]) for view in found]
        answer = fuse_detections(views, image_ids, looks=looks)
        answers.append(answer if detector.calibration is None else detector.calibration.apply_table(answer))
    return fuse_detections(answers, image_ids, looks=looks, weights=class_weights(members))


def ensemble_of(detectors: Detector | Sequence[Detector]) -> list[Detector]:
    """One detector or several as a list.

    Raises:
        CheckpointError: There is none, or they were trained for different classes.
    """
    members = [detectors] if isinstance(detectors, Detector) else list(detectors)
    if not members:
        raise CheckpointError("expected at least one detector, got none")
    for other in members[1:]:
        if other.spec.class_names != members[0].spec.class_names:
            raise CheckpointError(
                f"an ensemble needs the same classes: {members[0].path} has {members[0].spec.class_names}, "
                f"{other.path} has {other.spec.class_names}"
            )
    return members


@torch.inference_mode()
def _look(detector: Detector, batch: dict[str, Any], looks: Looks) -> list[list[Rows]]:
    """One batch through one network, upright and perhaps mirrored, back in original pixels."""
    net = detector.net
    net.set_answers(Answers(looks.score_floor, looks.max_boxes))
    images = batch["images"].to(detector.device, non_blocking=True)
    sizes = [tuple(size) for size in batch["sizes"]]
    with autocast(detector.device):
        views = [net(images, sizes)]
        if looks.tta_flip:
            swap = torch.as_tensor(np.array(mirror_labels(detector.spec.classes)), device=detector.device)
            found = net(_mirrored(images, sizes), sizes)
            views.append([_back(result, size[1], swap) for result, size in zip(found, sizes, strict=True)])
    return [answer_rows(batch, results) for results in views]


def _mirrored(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Each image mirrored within its own part of the batch."""
    mirrored = images.clone()
    for place, (rows, columns) in enumerate(sizes):
        mirrored[place, :, :rows, :columns] = images[place, :, :rows, :columns].flip(-1)
    return mirrored


def _back(result: dict[str, Tensor], columns: int, swap: Tensor) -> dict[str, Tensor]:
    """What was found on a mirror image of that many columns, as it lies on the upright one."""
    boxes = result["boxes"].float()[:, [2, 1, 0, 3]]
    boxes[:, 0::2] = columns - boxes[:, 0::2]
    return {**result, "boxes": boxes, "labels": swap[result["labels"]]}


class _Counter:
    """Adds up and reports progress."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._done, self._total)
