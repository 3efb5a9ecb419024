"""Scoring speed: ours against pycocotools, faster-coco-eval, hotcoco, torchmetrics and a plain sort.

    python tests/bench/bench_metrics.py
    python tests/bench/bench_metrics.py --rivals hotcoco pycocotools --rounds 5

The problem is the one of the project's targets: 3,000 images, 14 classes, 9,000 truth boxes, 300,000
detections. Everyone starts from the same arrays and ends with the average precision of every class at
an IoU of 0.4 (COCO's tools at their 101 recall points). Rounds are interleaved; a ratio is the median
of a rival's CPU time over the median of ours. Rivals that are not installed are skipped; `hotcoco` is
no dependency of the project (`pip install hotcoco` into a place of its own).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from cxr import metrics, schema

THRESHOLD = 0.4


def make_problem(images: int, classes: int, boxes: int, found: int, seed: int = 0) -> metrics.Problem:
    """Truth at random places, an eighth of the detections near truth, the rest anywhere."""
    rng = np.random.default_rng(seed)

    def anywhere(n: int) -> np.ndarray:
        low = rng.uniform(0, 1700, (n, 2))
        return np.hstack([low, low + rng.uniform(50, 750, (n, 2))])

    true = metrics.Boxes(
        rng.integers(0, images, boxes), rng.integers(0, classes, boxes), anywhere(boxes), np.ones(boxes)
    )
    near = rng.integers(0, boxes, found // 8)
    sides = np.tile(true.boxes[near, 2:] - true.boxes[near, :2], 2)
    corners = np.concatenate(
        [true.boxes[near] + rng.normal(0, 0.1, (len(near), 4)) * sides, anywhere(found - len(near))]
    )
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 5)
    image = np.concatenate([true.image[near], rng.integers(0, images, found - len(near))])
    label = np.concatenate([true.label[near], rng.integers(0, classes, found - len(near))])
    score = np.concatenate([rng.beta(2, 2, len(near)), rng.beta(1, 4, found - len(near))])
    order = rng.permutation(found)
    made = metrics.Boxes(image[order], label[order], corners[order], score[order])
    names = np.array([f"{number:032x}" for number in range(images)], dtype=object)
    return metrics.Problem(made, true, names, np.arange(classes))


def as_tables(problem: metrics.Problem) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = []
    for part in (problem.detections, problem.truth):
        table = pd.DataFrame(part.boxes, columns=schema.BOX_COLUMNS)
        table["image_id"] = problem.image_ids[part.image]
        table["class_id"] = problem.class_ids[part.label]
        table["score"] = part.score
        tables.append(table)
    return tables[0], tables[1].drop(columns="score")


def sizes(boxes: np.ndarray) -> np.ndarray:
    """Corners to `x, y, width, height`."""
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


# -- the rivals, each from arrays to the average precision of every class ----------------------------


def by_ours(problem: metrics.Problem) -> np.ndarray:
    return metrics.voc_score(problem, iou_threshold=THRESHOLD).per_class["ap"].to_numpy()


def by_sort(problem: metrics.Problem) -> None:
    np.sort(problem.detections.score)


def by_coco(problem: metrics.Problem, coco: type, evaluator: type) -> np.ndarray:
    true, found = problem.truth, problem.detections
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco()
        edges = sizes(true.boxes)
        reference.dataset = {
            "images": [{"id": k} for k in range(len(problem.image_ids))],
            "categories": [{"id": k} for k in range(len(problem.class_ids))],
            "annotations": [
                {"id": k + 1, "image_id": i, "category_id": c, "bbox": e, "area": e[2] * e[3], "iscrowd": 0}
                for k, (i, c, e) in enumerate(
                    zip(true.image.tolist(), true.label.tolist(), edges.tolist(), strict=True)
                )
            ],
        }
        reference.createIndex()
        rows = np.column_stack([found.image, sizes(found.boxes), found.score, found.label])
        evaluation = evaluator(reference, reference.loadRes(rows), "bbox")
        evaluation.params.iouThrs = np.array([THRESHOLD])
        evaluation.params.maxDets = [100_000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, 0].mean(axis=0)


def by_pycocotools(problem: metrics.Problem) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return by_coco(problem, COCO, COCOeval)


def by_faster_coco_eval(problem: metrics.Problem) -> np.ndarray:
    from faster_coco_eval import COCO, COCOeval_faster

    return by_coco(problem, COCO, COCOeval_faster)


def by_hotcoco(problem: metrics.Problem) -> np.ndarray:
    import hotcoco

    true, found = problem.truth, problem.detections
    with contextlib.redirect_stdout(io.StringIO()):
        reference = hotcoco.COCO.from_arrays(
            [{"id": k} for k in range(len(problem.image_ids))],
            [{"id": k, "name": str(k)} for k in range(len(problem.class_ids))],
            true.image, true.label, sizes(true.boxes),
        )  # fmt: skip
        rows = np.column_stack([found.image, sizes(found.boxes), found.score, found.label])
        evaluation = hotcoco.COCOeval(reference, reference.load_res(rows), "bbox")
        evaluation.params.iou_thrs = [THRESHOLD]
        evaluation.params.max_dets = [100_000]
        evaluation.params.area_rng = [[0, 1e10]]
        evaluation.params.area_rng_lbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])
    return precision[0, :, :, 0, 0].mean(axis=0)


def by_torchmetrics(problem: metrics.Problem, backend: str = "pycocotools") -> np.ndarray:
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    true, found = problem.truth, problem.detections
    metric = MeanAveragePrecision(
        iou_thresholds=[THRESHOLD], max_detection_thresholds=[1, 10, 100], class_metrics=True, backend=backend
    )

    metric.warn_on_many_detections = False

    def of_images(part: metrics.Boxes) -> list[dict]:
        order = np.argsort(part.image, kind="stable")
        ends = np.searchsorted(part.image[order], np.arange(len(problem.image_ids) + 1))
        columns = (part.boxes[order], part.score[order], part.label[order])
        boxes, scores, labels = (torch.from_numpy(column) for column in columns)
        return [
            {"boxes": boxes[a:b], "scores": scores[a:b], "labels": labels[a:b]}
            for a, b in itertools.pairwise(ends)
        ]

    metric.update(of_images(found), of_images(true))
    return metric.compute()["map_per_class"].numpy()


RIVALS: dict[str, tuple[str, Callable[[metrics.Problem], np.ndarray | None]]] = {
    "sort": ("numpy", by_sort),
    "hotcoco": ("hotcoco", by_hotcoco),
    "faster-coco-eval": ("faster_coco_eval", by_faster_coco_eval),
    "pycocotools": ("pycocotools", by_pycocotools),
    "torchmetrics": ("torchmetrics", by_torchmetrics),
}


def measured(run: Callable[[], object], repeat: int = 1) -> tuple[float, float, object]:
    """CPU seconds of all threads, wall seconds, and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeat):
        result = run()
    return (time.process_time() - cpu) / repeat, (time.perf_counter() - wall) / repeat, result


def compile_seconds() -> tuple[float, float]:
    """CPU of the first call in a fresh process, with an empty and with a filled cache of compiled code."""
    code = (
        "import time, numpy as np; from cxr import metrics; b = metrics.Boxes(np.zeros(1, np.int64), "
        "np.zeros(1, np.int64), np.array([[0., 0, 1, 1]]), np.ones(1)); "
        "p = metrics.Problem(b, b, np.array(['a'], dtype=object), np.arange(1)); "
        "t = time.process_time(); metrics.voc_score(p); print(time.process_time() - t)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", code]
        run = [
            float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(2)
        ]
    return run[0], run[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--boxes", type=int, default=9000)
    parser.add_argument("--found", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    options = parser.parse_args()
    problem = make_problem(options.images, options.classes, options.boxes, options.found)

    first, cached = compile_seconds()
    print(f"first call in a fresh process: {first:.2f} s CPU compiling, {cached:.2f} s from the cache")
    by_ours(problem)
    rivals = {}
    for name in options.rivals:
        module, run = RIVALS[name]
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed, skipped")
            continue
        rivals[name] = run

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", *rivals)}
    results: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, run in rivals.items():
            # Ours before every rival, so that both meet the same load on the machine.
            for each, call, repeat in (("ours", by_ours, 5), (name, run, 5 if name == "sort" else 1)):
                cpu, wall, result = measured(lambda call=call: call(problem), repeat)
                times[each].append((cpu, wall))
                if result is not None:
                    results[each] = result
    median = {
        name: [statistics.median(side) for side in zip(*runs, strict=True)]
        for name, runs in times.items()
        if runs
    }
    print(f"\n{options.images} images, {options.boxes} truth boxes, {options.found} detections")
    print(f"{'':18}{'CPU s':>10}{'wall s':>10}{'CPU/ours':>10}{'wall/ours':>11}{'largest difference':>20}")
    for name, (cpu, wall) in median.items():
        gap = np.abs(results[name] - results["ours"]).max() if name in results else float("nan")
        ratios = cpu / median["ours"][0], wall / median["ours"][1]
        print(f"{name:18}{cpu:10.4f}{wall:10.4f}{ratios[0]:10.2f}{ratios[1]:11.2f}{gap:20.2g}")

    if options.resamples:
        tables = as_tables(problem)
        cpu, wall, boot = measured(lambda: metrics.bootstrap_map(*tables, resamples=options.resamples))
        print(f"\nbootstrap, {options.resamples} resamples: {cpu:.2f} s CPU, {wall:.2f} s wall; ", end="")
        print(f"mAP {boot.map:.4f} [{boot.low:.4f} {boot.high:.4f}]")
        cpu, wall, _ = measured(lambda: metrics.voc_map(*tables), 3)
        print(f"from tables with image names: {cpu:.3f} s CPU, {wall:.3f} s wall")


if __name__ == "__main__":
    main()
