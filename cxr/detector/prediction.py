"""Boxes of new images, in their original pixels, from one detector or several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.boxes import check_fusion_method
from cxr.detector.augment import mirror_labels
from cxr.detector.calibration import ScoreCalibration
from cxr.detector.checkpoint import read_detector, write_safetensors
from cxr.detector.data import (
    ImageSource,
    RadiographDataset,
    detection_table,
    like_shape_batches,
    make_loader,
    to_original,
)
from cxr.detector.device import autocast, pick_device
from cxr.detector.files import image_files, read_ahead
from cxr.detector.fusion import fuse_detections
from cxr.detector.heads import MAX_BOXES, NMS_IOU, SCORE_THRESHOLD, set_answers
from cxr.detector.model import DetectorSpec, GreyFasterRCNN
from cxr.errors import CheckpointError, DataError

log = logging.getLogger("cxr")

FAILURE_COLUMNS = ["file", "reason", "message"]

_Rows = tuple[str, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Detector:
    """A network ready to predict.

    Attributes:
        net: In evaluation mode, on its device.
        spec: Its description: classes, image size, anchors.
        path: The file it came from.
        sha256: Of that file.
        calibration: Turns scores into probabilities before detectors are fused; see
            `ensemble.load_detectors`.
    """

    net: GreyFasterRCNN
    spec: DetectorSpec
    path: str
    sha256: str
    calibration: ScoreCalibration | None = None

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.net.parameters()).device


def load_detector(checkpoint: Path | str, *, device: str = "auto") -> Detector:
    """A detector from a training checkpoint or a safetensors export.

    Nothing in the file is executed. Where `<file>.sha256` is beside it, the hash is checked.

    Args:
        checkpoint: `.ckpt` or `.safetensors`.
        device: "auto" (CUDA where there is one), "cpu", "cuda:1" and so on.

    Raises:
        CheckpointError: No such file, damaged, or not a detector of this project.
    """
    net, spec, digest = read_detector(Path(checkpoint))
    return Detector(net.to(pick_device(device)), spec, str(checkpoint), digest)


def export_detector(detector: Detector, path: Path) -> str:
    """Write a detector as safetensors, weights and description in one file; returns its SHA-256."""
    return write_safetensors(detector.net, detector.spec, path)


def predict_store(
    detectors: Detector | Sequence[Detector],
    store: ImageSource,
    image_ids: Sequence[str],
    *,
    batch_size: int = 8,
    score_threshold: float = SCORE_THRESHOLD,
    max_boxes: int = MAX_BOXES,
    nms_iou: float = NMS_IOU,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    fusion_iou: float = 0.55,
    model_fusion: str = "wbf",
    weights: Sequence[float] | None = None,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Detections on images of a store, in original pixels.

    Several detectors, mirror images and scales each see every image. What one detector finds in
    its views is fused (by weighted boxes a view that finds nothing counts against a box); then
    it is calibrated, where that was learnt; then the detectors' answers are fused likewise. The
    result does not depend on `batch_size`.

    Args:
        detectors: One or several, of the same classes.
        store: Image store.
        image_ids: Images to look at.
        batch_size: Largest batch; images of the same shape go together.
        score_threshold: Boxes scored lower are left out.
        max_boxes: Most boxes an image.
        nms_iou: A box that overlaps a better one of its class by more is left out.
        flip: Also look at the mirror image.
        scales: Sizes to look at, relative to each network's own.
        fusion_iou: Boxes of one class that overlap by more are one finding, when several
            views are fused.
        model_fusion: How several views are fused, see `boxes.fuse_models`.
        weights: How much each detector counts; all alike by default.
        num_workers: Loading processes.
        progress: Called with images done and all images, over all detectors.

    Returns:
        `schema.DETECTION_COLUMNS`, images in the order given, best boxes first.

    Raises:
        CheckpointError: The detectors were trained for different classes.
        DataError: An image is not in the store.
        ParameterError: An unknown way to fuse.
    """
    check_fusion_method("model_fusion", model_fusion)
    members = _members(detectors)
    image_ids = list(image_ids)
    absent = [image_id for image_id in image_ids if image_id not in store]
    if absent:
        raise DataError(f"{len(absent)} images are not in the image store, first {absent[0]!r}")
    counter = _Counter(progress, len(members) * len(scales) * len(image_ids))
    answers: list[pd.DataFrame] = []
    for detector in members:
        views: list[pd.DataFrame] = []
        for scale in scales:
            size = max(32, round(detector.spec.image_size * scale))
            dataset = RadiographDataset(store, image_ids, None, image_size=size, cache_mib=0)
            batches = like_shape_batches(dataset.sizes(), batch_size)
            found: list[dict[str, _Rows]] = [{} for _ in range(1 + flip)]
            for batch in make_loader(dataset, batches, num_workers=num_workers):
                for place, rows in enumerate(
                    _look(
                        detector,
                        batch,
                        flip=flip,
                        score_threshold=score_threshold,
                        max_boxes=max_boxes,
                        nms_iou=nms_iou,
                    )
                ):
                    found[place].update({row[0]: row for row in rows})
                counter.add(len(batch["image_ids"]))
            views += [detection_table([view[image_id] for image_id in image_ids]) for view in found]
        answer = fuse_detections(
            views,
            image_ids,
            weights=[1.0] * len(views),
            fusion_iou=fusion_iou,
            max_boxes=max_boxes,
            method=model_fusion,
        )
        answers.append(answer if detector.calibration is None else detector.calibration.apply_table(answer))
    return fuse_detections(
        answers,
        image_ids,
        weights=weights or [1.0] * len(members),
        fusion_iou=fusion_iou,
        max_boxes=max_boxes,
        method=model_fusion,
    )


def predict_files(
    detectors: Detector | Sequence[Detector],
    files: Path | str | Sequence[Path | str],
    *,
    batch_size: int = 8,
    score_threshold: float = SCORE_THRESHOLD,
    max_boxes: int = MAX_BOXES,
    nms_iou: float = NMS_IOU,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    fusion_iou: float = 0.55,
    weights: Sequence[float] | None = None,
    readers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detections on image files: DICOM, or 8/16-bit grey PNG/JPEG.

    A file that cannot be read, or whose decoder crashes, goes into the table of failures; the rest is
    predicted. While the network looks at some files the next are decoded.

    Args:
        detectors: See `predict_store`, as for the arguments not listed here.
        files: A file, a folder (all images in it), or a list of files and folders.
        readers: Decoding processes; 0 for one a core, at most 4.

    Returns:
        Detections with `schema.DETECTION_COLUMNS` in pixels of each file, the image id
        being the file's name without a known suffix; and failures (`FAILURE_COLUMNS`).

    Raises:
        DataError: A path does not exist, or there is no image.
        CheckpointError: The detectors were trained for different classes.
    """
    members = _members(detectors)
    named, doubles = image_files(files)
    paths = list(named.items())
    longest = max(round(d.spec.image_size * s) for d in members for s in scales)
    tables: list[pd.DataFrame] = []
    failures: list[tuple[str, str, str]] = []
    for path, other in doubles.items():
        failures.append((str(path), "duplicate_id", f"{path}: {other} has the same image id"))
    done = 0
    for held, failed, count in read_ahead(
        paths, longest_side=longest, chunk=max(4 * batch_size, 16), readers=readers
    ):
        failures += failed
        tables.append(
            predict_store(
                members,
                held,
                held.ids,
                batch_size=batch_size,
                score_threshold=score_threshold,
                max_boxes=max_boxes,
                nms_iou=nms_iou,
                flip=flip,
                scales=scales,
                fusion_iou=fusion_iou,
                weights=weights,
            )
        )
        done += count
        if progress is not None:
            progress(done, len(paths))
    return pd.concat(tables, ignore_index=True), pd.DataFrame(failures, columns=FAILURE_COLUMNS)


def _members(detectors: Detector | Sequence[Detector]) -> list[Detector]:
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
def _look(
    detector: Detector,
    batch: dict[str, Any],
    *,
    flip: bool,
    score_threshold: float,
    max_boxes: int,
    nms_iou: float,
) -> list[list[_Rows]]:
    """One batch through one network, upright and perhaps mirrored, back in original pixels."""
    net = detector.net
    set_answers(net.roi_heads, score_threshold=score_threshold, max_boxes=max_boxes, nms_iou=nms_iou)
    images = batch["images"].to(detector.device, non_blocking=True)
    sizes = [tuple(size) for size in batch["sizes"]]
    with autocast(detector.device):
        results = [net(images, sizes)]
        if flip:
            results.append(net(_mirrored(images, sizes), sizes))
    swap = np.array(mirror_labels(detector.spec.classes))
    views: list[list[_Rows]] = []
    for mirrored, found in enumerate(results):
        rows: list[_Rows] = []
        for image_id, size, original, result in zip(
            batch["image_ids"], sizes, batch["original_sizes"], found, strict=True
        ):
            boxes = result["boxes"].float().cpu().numpy()
            labels = result["labels"].cpu().numpy()
            if mirrored:
                boxes = boxes[:, [2, 1, 0, 3]]
                boxes[:, 0::2] = size[1] - boxes[:, 0::2]
                labels = swap[labels]
            boxes = to_original(boxes, tuple(original), size)
            rows.append((image_id, boxes, labels, result["scores"].float().cpu().numpy()))
        views.append(rows)
    return views


def _mirrored(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Each image mirrored within its own part of the batch."""
    mirrored = images.clone()
    for place, (rows, columns) in enumerate(sizes):
        mirrored[place, :, :rows, :columns] = images[place, :, :rows, :columns].flip(-1)
    return mirrored


class _Counter:
    """Adds up and reports progress."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._done, self._total)
