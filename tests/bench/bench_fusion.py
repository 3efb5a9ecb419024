"""Fusion speed: ours against ensemble-boxes, with the same clusters, boxes and scores.

    python tests/bench/bench_fusion.py
    python tests/bench/bench_fusion.py --readers-images 1500 --models-images 300

Two problems: 15,000 images of 3 readers with two or three boxes each, and 3,000 images of 5 models with
100 boxes each. `ensemble-boxes` takes lists of lists, one call per image; making these lists is not
timed, nor is reading its results. Scores differ, so that both visit the boxes in the same order.
Results must agree to 1e-6 of the image's side: they hold means in float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import time
from typing import NamedTuple

import numpy as np

from cxr import boxes


class Task(NamedTuple):
    """Boxes of all images in one row each, in units of the image's side."""

    corners: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    models: np.ndarray
    images: np.ndarray
    n_models: int
    iou_threshold: float


def readers_task(images: int, rng: np.random.Generator) -> Task:
    """Readers mark the same two or three findings, each a little differently, and miss some."""
    findings = np.repeat(np.arange(images), rng.integers(2, 5, images))
    low = rng.uniform(0, 0.7, (len(findings), 2))
    place = np.hstack([low, low + rng.uniform(0.03, 0.3, (len(findings), 2))])
    label = rng.integers(0, 14, len(findings))
    reader, finding = (part.ravel() for part in np.indices((3, len(findings))))
    drawn = rng.random(len(finding)) < 0.875
    reader, finding = reader[drawn], finding[drawn]
    corners = place[finding] + rng.normal(0, 0.012, (len(finding), 4))
    return tidy(
        corners, rng.uniform(0.99, 1, len(finding)), label[finding], reader, findings[finding], 3, 0.4
    )


def models_task(images: int, rng: np.random.Generator) -> Task:
    """Models find a dozen places an image in common and many others on their own."""
    per_model, n_models = 100, 5
    n = images * n_models * per_model
    image = np.repeat(np.arange(images), n_models * per_model)
    model = np.tile(np.repeat(np.arange(n_models), per_model), images)
    low = rng.uniform(0, 0.7, (images, 12, 2))
    place = np.concatenate([low, low + rng.uniform(0.05, 0.3, low.shape)], axis=2)
    chosen = rng.integers(0, 12, n)
    shared = rng.random(n) < 0.5
    low = rng.uniform(0, 0.7, (n, 2))
    corners = np.hstack([low, low + rng.uniform(0.03, 0.3, (n, 2))])
    corners[shared] = place[image[shared], chosen[shared]] + rng.normal(0, 0.015, (int(shared.sum()), 4))
    label = np.where(shared, chosen % 14, rng.integers(0, 14, n))
    return tidy(corners, rng.beta(1, 3, n), label, model, image, n_models, 0.55)


def tidy(corners, scores, labels, models, images, n_models, iou_threshold) -> Task:
    corners = np.clip(corners, 0, 1)
    corners[:, 2:] = np.clip(np.maximum(corners[:, 2:], corners[:, :2] + 0.01), 0, 1)
    corners[:, :2] = np.minimum(corners[:, :2], corners[:, 2:] - 0.005)
    order = np.argsort(images, kind="stable")
    return Task(
        corners[order], scores[order], labels[order], models[order], images[order], n_models, iou_threshold
    )


def by_ours(task: Task) -> boxes.FusedBoxes:
    return boxes.weighted_boxes_fusion(
        task.corners,
        task.scores,
        task.labels,
        task.models,
        n_models=task.n_models,
        iou_threshold=task.iou_threshold,
        images=task.images,
    )


def as_lists(task: Task) -> list[tuple[list, list, list]]:
    """One entry per image: boxes, scores and labels of every model, empty ones included."""
    ends = np.searchsorted(task.images, np.arange(task.images.max() + 2))
    lists = []
    for a, b in itertools.pairwise(ends):
        of_model = [np.flatnonzero(task.models[a:b] == model) + a for model in range(task.n_models)]
        lists.append(tuple([part[index] for index in of_model] for part in task[:3]))
    return lists


def compare(task: Task, rounds: int, name: str) -> None:
    from ensemble_boxes import weighted_boxes_fusion

    lists = as_lists(task)
    by_ours(task)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(3):
            fused = by_ours(task)
        ours.append((time.process_time() - start) / 3)
        start = time.process_time()
        results = [weighted_boxes_fusion(*parts, iou_thr=task.iou_threshold) for parts in lists]
        theirs.append(time.process_time() - start)
    n_images = len(lists)
    print(f"\n{name}: {n_images} images, {len(task.scores)} boxes -> {len(fused.scores)}")
    print(f"  identical to 1e-6: {identical(fused, results)}")
    other, own = statistics.median(theirs), statistics.median(ours)
    print(f"  ensemble-boxes {other:.3f} s, ours {own:.4f} s CPU: {other / own:.0f}x")


def identical(fused: boxes.FusedBoxes, results: list) -> bool:
    """Whether every image has the same boxes, scores and labels, up to the order of equal scores."""
    ends = np.searchsorted(fused.images, np.arange(len(results) + 1))
    for (a, b), (corners, scores, labels) in zip(itertools.pairwise(ends), results, strict=True):
        if len(scores) != b - a:
            return False
        mine = np.column_stack([fused.labels[a:b], fused.boxes[a:b], fused.scores[a:b]])
        other = np.column_stack([labels, corners, scores])
        mine, other = (part[np.lexsort(part.round(5).T[::-1])] for part in (mine, other))
        if not np.allclose(mine, other, atol=1e-6, rtol=0):
            # Rounding for the sort may have parted near-equal rows: look for each one.
            apart = np.abs(mine[:, None] - other[None]).max(axis=2)
            if apart.min(axis=1).max() > 1e-6 or apart.min(axis=0).max() > 1e-6:
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--readers-images", type=int, default=15_000)
    parser.add_argument("--models-images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    by_ours(readers_task(2, rng))
    print(f"first call (compiled or from the cache): {time.perf_counter() - start:.2f} s")
    tasks = {
        "readers": readers_task(options.readers_images, rng),
        "models": models_task(options.models_images, rng),
    }
    for name, task in tasks.items():
        if importlib.util.find_spec("ensemble_boxes") is None:
            start = time.process_time()
            by_ours(task)
            print(f"{name}: ours {time.process_time() - start:.4f} s CPU; ensemble-boxes not installed")
        else:
            compare(task, options.rounds, name)


if __name__ == "__main__":
    main()
