"""What the recipe of training is worth: beside a plain one, and without each of its parts.

    python tests/bench/bench_recipe.py phantom --seeds 0 1 2                      recipe and plain recipe
    python tests/bench/bench_recipe.py phantom --ablate                           each part in turn
    python tests/bench/bench_recipe.py lungs DATA_DIR --only recipe               how exact the edges are
    python tests/bench/bench_recipe.py lungs DATA_DIR --ablate --set epochs=18
    python tests/bench/bench_recipe.py phantom --only recipe,ema_decay=0 --set epochs=4

The light network, from random weights, on a CPU. `phantom` makes 960 training and 240 test images and
trains as notebook 06 does by default; `lungs` is any data folder with a `test_truth.csv`, made for 326
chest radiographs with the boxes of both lungs, 66 of them held out. All variants see equally many images
of equal size in as many epochs. The plain recipe is what most people write: SGD 3e-3 at a constant
rate, no augmentation, the usual anchors, images with boxes drawn alike, fused boxes that weigh alike;
the network is ours. "plain with AdamW" has our optimiser and its rate too, since SGD 3e-3 is meant for
pretrained weights. Prints the average precision, as a mean over the findings, at IoU 0.4, 0.75 and 0.85,
with mirror images looked at too, and the wall and CPU seconds of training.
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

from cxr import annotations, chain, metrics
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import train_detector
from cxr.phantom import make_phantom
from cxr.preprocess import preprocess
from cxr.recipes import changed, from_values
from cxr.schema import ClassTable
from cxr.store import ImageStore

ROOT = Path(__file__).resolve().parents[2]
Settings = dict[str, Any]

USUAL_ANCHORS = {"aspect_ratios": (0.5, 1.0, 2.0)}
PLAIN: Settings = {
    "optimizer": "sgd",
    "learning_rate": 3e-3,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "label_mode": "fused",
    "class_balance": 0.0,
    "negative_fraction": 0.0,
    "hflip": 0.0,
    "scale": (1.0, 1.0),
    "shift": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "noise": 0.0,
    **USUAL_ANCHORS,
}
"""The plain recipe; its anchor sizes are those of the data set at hand."""

PARTS: dict[str, Settings] = {
    "SGD 3e-3 for AdamW": {key: PLAIN[key] for key in ("optimizer", "learning_rate", "weight_decay")},
    "constant learning rate": {"schedule": "constant"},
    "no clipping": {"clip_norm": 0.0},
    "no weight average": {"ema_decay": 0.0},
    "no mirror images": {"hflip": 0.0},
    "no zoom and shift": {"scale": (1.0, 1.0), "shift": 0.0},
    "no exposure changes": {key: 0.0 for key in ("brightness", "contrast", "gamma", "noise")},
    "usual anchors": USUAL_ANCHORS,
}
"""The recipe without one of its parts, as parameters of `Recipe`."""

ONLY_PHANTOM: dict[str, Settings] = {
    "no class balance": {"class_balance": 0.0},
    "negatives as in the data": {"negative_fraction": -1.0},
    "no negatives": {"negative_fraction": 0.0},
    "with several scales": {"multi_scale": (0.8, 1.0, 1.2)},
    "boxes weigh alike": {"label_mode": "fused"},
    "with every reader's boxes": {"label_mode": "every_reader"},
}
IOUS = (0.4, 0.75, 0.85)


def recipe_of(problem: str) -> tuple[Recipe, dict[str, Settings]]:
    """The recipe for a problem, and its variants by name, itself and the plain one first."""
    if problem == "lungs":
        lungs = {"detector_image_size": 256, "epochs": 36, "images_per_epoch": 0, "negative_fraction": -1.0}
        recipe = changed(Recipe(), **lungs, weights="", class_balance=0.0, label_mode="fused")
        sizes, own = (64.0, 128.0, 256.0, 512.0), {}
    else:
        demo = chain.load_parameters(ROOT / "params" / "demo.yaml")
        recipe = changed(from_values(Recipe, demo), weights="")
        # torchvision's 32 to 256 at 800 px, at this network's size.
        sizes, own = (12.0, 24.0, 48.0, 96.0), ONLY_PHANTOM
    sgd = PARTS["SGD 3e-3 for AdamW"]
    better = {key: value for key, value in PLAIN.items() if key not in sgd}
    variants = {"recipe": {}, "plain": PLAIN, "plain with AdamW": better, **PARTS, **own}
    for name in ("plain", "plain with AdamW", "usual anchors"):
        variants[name] = {**variants[name], "anchor_sizes": sizes}
    return recipe, variants


def settings_from(text: str) -> Settings:
    """One parameter of the recipe from `name=value`."""
    key, _, value = text.partition("=")
    try:
        return {key: ast.literal_eval(value)}
    except (ValueError, SyntaxError):
        return {key: value}


def read_tables(data_dir: Path, classes: ClassTable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The readers' boxes to learn from, and the truth of the test images."""
    train, truth = (
        annotations.read_annotations(data_dir / name, classes=classes)
        for name in ("train.csv", "test_truth.csv")
    )
    return train, annotations.fuse_readers(truth, classes=classes)


def measure(
    store: ImageStore,
    train: pd.DataFrame,
    truth: pd.DataFrame,
    out: Path,
    *,
    recipe: Recipe,
    classes: ClassTable,
) -> dict[str, float]:
    """Train once and score on the test images."""
    train_ids, test_ids = store.ids_of("train"), store.ids_of("test")
    cpu = time.process_time()
    result = train_detector(store, train, train_ids, [], recipe, out, classes=classes)
    cpu = time.process_time() - cpu
    found = predict_store(load_detector(result.best), store, test_ids, looks=Looks())
    findings = truth[truth.class_id != classes.normal_id]
    row = {
        f"AP{round(100 * iou)}": metrics.voc_map(found, findings, iou_threshold=iou, image_ids=test_ids).map
        for iou in IOUS
    }
    return row | {"s": result.seconds, "CPU s": cpu}


def main() -> None:
    """Train each variant and print its row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", choices=("phantom", "lungs"))
    parser.add_argument("data_dir", type=Path, nargs="?", help="made anew for the phantom where not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ablate", action="store_true", help="also train without each part of the recipe")
    parser.add_argument("--only", default="", help="comma-separated variants: recipe, a name, or name=value")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change the recipe")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.problem == "lungs" and arguments.data_dir is None:
        parser.error("lungs: expected the folder of the data")
    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    recipe, variants = recipe_of(arguments.problem)
    for text in arguments.set:
        recipe = changed(recipe, **settings_from(text))
    names = list(variants) if arguments.ablate else ["recipe", "plain"]
    if arguments.only:
        names = arguments.only.split(",")
        if unknown := [name for name in names if "=" not in name and name not in variants]:
            parser.error(f"--only: expected some of {', '.join(variants)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = arguments.data_dir or make_phantom(folder / "data", images=960, size=512)
        classes = annotations.read_classes(data_dir)
        train, truth = read_tables(data_dir, classes)
        splits = {split: data_dir / split for split in ("train", "test")}
        size = recipe.network.detector_image_size if arguments.problem == "lungs" else 512
        preprocess(splits, folder / "images", image_size=size, jobs=1)
        store = ImageStore(folder / "images")
        for number, variant in enumerate(names):
            for seed in arguments.seeds:
                change = settings_from(variant) if "=" in variant else variants[variant]
                own = changed(recipe, **{**change, "seed": seed, "accelerator": "cpu"})
                row = measure(store, train, truth, folder / "out", recipe=own, classes=classes)
                if number == 0 and seed == arguments.seeds[0]:
                    print(f"{'variant':<28}{'seed':>5}" + "".join(f"{key:>8}" for key in row))
                print(
                    f"{variant:<28}{seed:>5}"
                    + "".join(f"{row[key]:>8.3f}" for key in row if key.startswith("AP"))
                    + f"{row['s']:>8.0f}{row['CPU s']:>8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
