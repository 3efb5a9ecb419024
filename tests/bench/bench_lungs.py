"""How exactly the light network finds large organs, learnt from nothing on a CPU.

    python tests/bench/bench_lungs.py DATA_DIR                      the recipe
    python tests/bench/bench_lungs.py DATA_DIR --ablate             and without each of its parts
    python tests/bench/bench_lungs.py DATA_DIR --only recipe,ema_decay=0 --epochs 12

`DATA_DIR` is any data folder with a `test_truth.csv`; made for 326 chest radiographs with the boxes of
both lungs, 66 of them held out. Prints the average precision, as a mean over the findings, at IoU 0.4,
0.75 and 0.85, and the seconds of training. A name of `--only` is "recipe", a name of `ABLATIONS`, or one
argument of `train_detector` as `name=value`.
"""

from __future__ import annotations

import argparse
import ast
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxr import annotations, metrics
from cxr.detector.prediction import load_detector, predict_store
from cxr.detector.training import train_detector
from cxr.preprocess import preprocess
from cxr.schema import ClassTable
from cxr.store import ImageStore

RECIPE = {"box_weight": 2.0, "near_truth": 4}
"""What few, large boxes with exact edges want beyond the usual."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "no regions close to truth": {"near_truth": 0},
    "edges weigh as the rest": {"box_weight": 1.0},
    "no weight average": {"ema_decay": 0.0},
    "no mirror images": {"hflip": 0.0},
    "no zoom and shift": {"scale": (1.0, 1.0), "shift": 0.0},
    "no exposure changes": {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0},
    "usual anchors": {
        "anchor_sizes": (64.0, 128.0, 256.0, 512.0),
        "aspect_ratios": (0.5, 1.0, 2.0),
    },
    "constant learning rate": {"schedule": "constant", "warmup_steps": 50},
    "no clipping": {"clip_norm": 0.0},
}
"""The recipe without one of its parts, as arguments of `train_detector`."""

IOUS = (0.4, 0.75, 0.85)


def variant(name: str) -> dict[str, Any]:
    """Arguments of a variant by its name, see the module's first lines."""
    if name == "recipe":
        return {}
    if "=" in name:
        key, _, text = name.partition("=")
        try:
            return {key: ast.literal_eval(text)}
        except (ValueError, SyntaxError):
            return {key: text}
    return ABLATIONS[name]


def tables(data_dir: Path, classes: ClassTable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fused boxes to learn from, and the truth of the test images."""
    parts = []
    for name in ("train.csv", "test_truth.csv"):
        rows = annotations.read_annotations(data_dir / name, classes=classes)
        parts.append(annotations.fuse_readers(rows, classes=classes))
    return parts[0], parts[1]


def measure(
    store: ImageStore, train: pd.DataFrame, truth: pd.DataFrame, out: Path, **settings: Any
) -> dict[str, float]:
    """Train once and score on the test images, mirror images looked at too, as in the notebooks."""
    train_ids, test_ids = store.ids_of("train"), store.ids_of("test")
    cpu = time.process_time()
    result = train_detector(store, train, train_ids, [], out, **settings)
    cpu = time.process_time() - cpu
    found = predict_store(load_detector(result.best), store, test_ids, flip=True)
    row = {
        f"AP{round(100 * iou)}": metrics.voc_map(found, truth, iou_threshold=iou, image_ids=test_ids).map
        for iou in IOUS
    }
    return row | {"seconds": result.seconds, "cpu_seconds": cpu}


def main() -> None:
    """Train each variant and print its row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ablate", action="store_true", help="also train without each part of the recipe")
    parser.add_argument("--only", default="", help="comma-separated variants instead")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    names = (
        arguments.only.split(",") if arguments.only else ["recipe", *(ABLATIONS if arguments.ablate else ())]
    )
    classes = annotations.read_classes(arguments.data_dir)
    train, truth = tables(arguments.data_dir, classes)
    print(
        f"{'variant':<28}{'seed':>5}"
        + "".join(f"{f'AP{round(100 * i)}':>8}" for i in IOUS)
        + f"{'s':>8}{'CPU s':>8}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = {split: arguments.data_dir / split for split in ("train", "test")}
        preprocess(splits, folder / "images", image_size=arguments.image_size, jobs=1)
        store = ImageStore(folder / "images")
        for variant_name in names:
            for seed in arguments.seeds:
                settings = {"image_size": arguments.image_size, "epochs": arguments.epochs, "seed": seed}
                settings |= RECIPE | variant(variant_name)
                row = measure(
                    store, train, truth, folder / "out", classes=classes, accelerator="cpu", **settings
                )
                print(
                    f"{variant_name:<28}{seed:>5}"
                    + "".join(f"{value:>8.3f}" for value in list(row.values())[:3])
                    + f"{row['seconds']:>8.0f}{row['cpu_seconds']:>8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
