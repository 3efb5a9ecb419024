"""How good the CPU recipe is on real radiographs, in equal thread minutes.

    python tests/bench/bench_real.py DATA_DIR
    python tests/bench/bench_real.py DATA_DIR --only "recipe,sketch,batch_size=8" --seeds 0 1 2
    python tests/bench/bench_real.py DATA_DIR --set negative_fraction=0.15 --keep results

DATA_DIR is a data folder (docs/data-formats.md) whose training images have findings and several readers.
Each seed holds out another fold of the training images. Every variant learns from the other folds for
`--minutes` of one thread's CPU time, and looks once at each image held out. The score is the mean over
the findings of VOC AP at IoU > 0.4, averaged over the seeds; its interval is a bootstrap over images.
`gain` is the difference to the first variant on the same images, with its interval: a gain whose interval
holds zero is chance.

A variant is `recipe` (notebook 06's defaults), `sketch`, or NAME=VALUE;NAME=VALUE, which changes the recipe.
`sketch` is a plain training written here: a narrow Faster R-CNN, mirror images, AdamW, one-cycle.
`--test` scores on the test images of DATA_DIR instead, and learns from all training images: to confirm at
the end, not to choose by. `--fused` trains the recipe once a fold, lets the five detectors look at the test
images, mirrored and in three sizes too, and scores each of them and all together.
"""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from cxr import annotations, metrics, schema
from cxr.detector.data.answers import detection_table
from cxr.detector.data.pixels import network_image, to_network, to_original
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.looks import ONE_LOOK, Looks
from cxr.detector.prediction.predict import predict_store
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import train_detector
from cxr.files import replacing
from cxr.metrics.intervals import bias_corrected, mean_of_known
from cxr.preprocess import preprocess
from cxr.recipes import changed
from cxr.schema import ClassTable
from cxr.splits import make_folds
from cxr.store import ImageStore
from cxr.survey import read_sizes

FOLDS = 5
TRIAL_STEPS, WARM_UP = 30, 5
"""Steps of the short training that tells how long one takes, and those of them that do not count."""
SKETCH_BATCH = 4
SCALES = (0.9, 1.0, 1.15)
"""Sizes in which fused detectors look, relative to their own."""

Split = tuple[list[str], list[str]]


# -- the plain sketch --------------------------------------------------------------------------------


class NarrowBackbone(nn.Module):
    """Five stages of two convolutions under a feature pyramid, strides 8, 16 and 32."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 24, 48, 96, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(*self._block(a, b, 2), *self._block(b, b, 1)) for a, b in pairwise(widths)
        )
        self.pyramid = FeaturePyramidNetwork(list(widths[3:]), self.out_channels)

    @staticmethod
    def _block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for number, stage in enumerate(self.stages):
            images = stage(images)
            if number > 1:
                maps[str(number - 2)] = images
        return self.pyramid(maps)


def sketch_network(labels: int, size: int) -> FasterRCNN:
    """Torchvision's Faster R-CNN over the narrow backbone."""
    return FasterRCNN(
        NarrowBackbone(),
        min_size=size,
        max_size=size,
        image_mean=[0.45],
        image_std=[0.23],
        rpn_anchor_generator=AnchorGenerator(((24.0,), (48.0,), (96.0,)), ((0.5, 1.0, 2.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(64 * 49, 128),
        box_predictor=FastRCNNPredictor(128, labels),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=150,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=150,
        box_batch_size_per_image=64,
        box_score_thresh=0.005,
        box_detections_per_img=300,
    )


class Sketch:
    """A plain training loop: what one writes in an afternoon."""

    def __init__(self, store: ImageStore, truth: pd.DataFrame, classes: ClassTable, size: int) -> None:
        self.store, self.classes, self.size = store, classes, size
        self.boxes = dict(tuple(truth[truth.class_id != classes.normal_id].groupby("image_id")))

    def tensors(self, image_id: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = network_image(self.store[image_id], self.size)
        rows = self.boxes.get(image_id)
        boxes = np.empty((0, 4)) if rows is None else rows[schema.BOX_COLUMNS].to_numpy(float)
        boxes = to_network(boxes, self.store.original_size(image_id), pixels.shape)
        labels = [] if rows is None else (rows.class_id + 1).tolist()
        target = {"boxes": torch.from_numpy(boxes), "labels": torch.tensor(labels, dtype=torch.int64)}
        return torch.from_numpy(pixels)[None].float() / 255, target

    def train(self, ids: list[str], seed: int, steps: int, tick: Callable[[], None]) -> nn.Module:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        net = sketch_network(len(self.classes.names), self.size).train()
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
        course = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
        order: list[str] = []
        for _ in range(steps):
            if len(order) < SKETCH_BATCH:
                order = rng.permutation(ids).tolist()
            batch, order = order[:SKETCH_BATCH], order[SKETCH_BATCH:]
            pairs = [self.tensors(image_id) for image_id in batch]
            for place, (image, target) in enumerate(pairs):
                if rng.random() < 0.5:
                    boxes = target["boxes"][:, [2, 1, 0, 3]]
                    boxes[:, 0::2] = image.shape[-1] - boxes[:, 0::2]
                    pairs[place] = image.flip(-1), {**target, "boxes": boxes}
            loss = sum(net([image for image, _ in pairs], [target for _, target in pairs]).values())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            course.step()
            tick()
        return net.eval()

    def predict(self, net: nn.Module, ids: list[str]) -> pd.DataFrame:
        rows = []
        for image_id in ids:
            image, _ = self.tensors(image_id)
            with torch.no_grad():
                (found,) = net([image])
            original = self.store.original_size(image_id)
            boxes = to_original(found["boxes"].numpy(), original, tuple(image.shape[-2:]))
            rows.append((image_id, boxes, found["labels"].numpy(), found["scores"].numpy()))
        return detection_table(rows)


# -- measuring ---------------------------------------------------------------------------------------


def settings_from(text: str) -> dict[str, object]:
    """Parameters from `name=value;name=value`."""
    found: dict[str, object] = {}
    for part in text.split(";"):
        key, _, value = part.partition("=")
        try:
            found[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key.strip()] = value
    return found


class Bench:
    """Trains a variant for the minutes given and keeps what it finds."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        data_dir = arguments.data_dir
        self.minutes = arguments.minutes
        self.classes = annotations.read_classes(data_dir)
        self.train = annotations.read_annotations(data_dir / "train.csv", classes=self.classes)
        splits = {"train": data_dir / "train"}
        self.truth = annotations.fuse_readers(self.train, classes=self.classes)
        if arguments.test or arguments.fused:
            splits["test"] = data_dir / "test"
            test = annotations.read_annotations(data_dir / "test_truth.csv", classes=self.classes)
            test = annotations.fuse_readers(test, classes=self.classes)
            self.truth = pd.concat([self.truth, test], ignore_index=True)
        tables = [table for split in splits if (table := read_sizes(data_dir, split)) is not None]
        sizes = pd.concat(tables) if tables else None
        preprocess(splits, folder / "images", image_size=arguments.store_size, jobs=1, sizes=sizes)
        self.store = ImageStore(folder / "images")
        self.folds = make_folds(self.train, folds=FOLDS, seed=0, classes=self.classes)
        self.test = arguments.test
        self.recipe = changed(Recipe(), negative_fraction=0.0, images_per_epoch=0, accelerator="cpu")
        if arguments.set:
            self.recipe = changed(self.recipe, **settings_from(";".join(arguments.set)))
        self.out = folder / "out"

    def split(self, seed: int) -> Split:
        """Images to learn from and images held out for a seed."""
        if self.test:
            return self.store.ids_of("train"), self.store.ids_of("test")
        held = self.folds.fold == seed % FOLDS
        return self.folds.image_id[~held].tolist(), self.folds.image_id[held].tolist()

    def measure(self, variant: str, seed: int) -> tuple[pd.DataFrame, float]:
        """What a variant finds on the images held out, and the CPU minutes of its training."""
        train_ids, held_out = self.split(seed)
        if variant == "sketch":
            size = self.recipe.network.detector_image_size
            sketch = Sketch(self.store, self.truth, self.classes, size)
            each = self._seconds_a_step(lambda tick: sketch.train(train_ids, seed, TRIAL_STEPS, tick))
            started = time.process_time()
            net = sketch.train(train_ids, seed, round(60 * self.minutes / each), lambda: None)
            return sketch.predict(net, held_out), (time.process_time() - started) / 60
        best, minutes = self.train_once(variant, seed)
        return predict_store(load_detector(best, device="cpu"), self.store, held_out, looks=ONE_LOOK), minutes

    def train_once(self, variant: str, seed: int) -> tuple[Path, float]:
        """The file of a variant that has learnt for the minutes given, and the CPU minutes that took."""
        train_ids, _ = self.split(seed)
        change = {} if variant == "recipe" else settings_from(variant)
        recipe = changed(self.recipe, **{**change, "seed": seed})
        batch = recipe.sampling.batch_size
        trial = changed(recipe, epochs=1, images_per_epoch=TRIAL_STEPS * batch)
        each = self._seconds_a_step(lambda tick: self._fit(train_ids, trial, tick))
        images = 60 * self.minutes / each * batch
        epochs = max(1, round(images / len(train_ids)))
        started = time.process_time()
        best = self._fit(train_ids, changed(recipe, epochs=epochs, images_per_epoch=round(images / epochs)))
        return best, (time.process_time() - started) / 60

    def fused(self, keep: Path | None) -> list[tuple[str, metrics.BootstrapResult]]:
        """One detector a fold on the test images, each with one look, then all with all looks."""
        test_ids, results, members = self.store.ids_of("test"), [], []
        for fold in range(FOLDS):
            kept = (keep or self.out.parent) / f"recipe-{fold}.ckpt"
            if not kept.is_file():
                best, _ = self.train_once("recipe", fold)
                with replacing(kept, hashed=True) as temporary:
                    shutil.copy(best, temporary)
            members.append(load_detector(kept, device="cpu"))
            found = predict_store(members[-1], self.store, test_ids, looks=ONE_LOOK)
            results.append((f"fold {fold} held out, one look", self.score_on(found, test_ids, fold)))
        looks = Looks(tta_flip=True, tta_scales=SCALES)
        found = predict_store(members, self.store, test_ids, looks=looks)
        return [*results, ("all five, mirrored and in three sizes", self.score_on(found, test_ids, 0))]

    def _fit(self, train_ids: list[str], recipe: Recipe, tick: Callable[[], None] = lambda: None) -> Path:
        result = train_detector(
            self.store,
            self.train,
            train_ids,
            [],
            recipe,
            self.out,
            classes=self.classes,
            progress=lambda *_: tick(),
        )
        return result.best

    @staticmethod
    def _seconds_a_step(trial: Callable[[Callable[[], None]], object]) -> float:
        """CPU seconds a step of a trial; wall time would count what else runs on the machine."""
        times: list[float] = []
        trial(lambda: times.append(time.process_time()))
        return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)

    def score(self, found: pd.DataFrame, seed: int) -> metrics.BootstrapResult:
        """The findings' APs on the images held out, resampled."""
        return self.score_on(found, self.split(seed)[1], seed)

    def score_on(self, found: pd.DataFrame, held_out: list[str], seed: int) -> metrics.BootstrapResult:
        """The findings' APs on these images, resampled."""
        ids = list(self.classes.finding_ids)
        rows = self.truth[self.truth.image_id.isin(held_out) & self.truth.class_id.isin(ids)]
        present = sorted(rows.class_id.unique().tolist())
        return metrics.bootstrap_map(
            found, rows, image_ids=held_out, class_ids=present, resamples=1000, seed=seed
        )


def summary(results: list[metrics.BootstrapResult]) -> tuple[float, np.ndarray]:
    """The mean over seeds of the mean over findings, and the same of each resample."""
    value = float(np.mean([r.per_class["ap"].mean() for r in results]))
    return value, np.mean([mean_of_known(r.class_samples) for r in results], axis=0)


def main() -> None:
    """Train every variant with every seed and print one row each, then the findings one by one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--only", default="recipe,sketch", help="comma-separated variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of each training")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change the recipe")
    parser.add_argument("--store-size", type=int, default=512, help="px, longer side of a stored image")
    parser.add_argument("--keep", type=Path, help="folder that keeps detections, so that a call goes on")
    parser.add_argument("--fused", action="store_true", help="five detectors together on the test images")
    parser.add_argument("--test", action="store_true", help="score on the test images, to confirm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    variants = re.split(r",(?![^(]*\))", arguments.only)  # not at the commas of a tuple
    scores: dict[str, list[metrics.BootstrapResult]] = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Path(name))
        if arguments.fused:
            for told, result in bench.fused(arguments.keep):
                alone = [result]
                print(row(told, alone, alone, []), flush=True)
            return
        print(f"{'variant':<44}{'mAP':>7}{'95 % interval':>17}{'gain':>8}{'95 % interval':>18}{'CPU min':>9}")
        for variant in variants:
            minutes: list[float] = []
            for seed in arguments.seeds:
                kept = arguments.keep / f"{variant.replace('/', '_')}-{seed}.csv" if arguments.keep else None
                if kept is not None and kept.is_file():
                    found = pd.read_csv(kept, dtype={"image_id": str})
                else:
                    found, spent = bench.measure(variant, seed)
                    minutes.append(spent)
                    if kept is not None:
                        kept.parent.mkdir(parents=True, exist_ok=True)
                        found.to_csv(kept, index=False)
                scores.setdefault(variant, []).append(bench.score(found, seed))
            print(row(variant, scores[variant], scores[variants[0]], minutes), flush=True)
    by_class = {
        variant: pd.concat([r.per_class for r in results]).groupby("class_id")["ap"].mean()
        for variant, results in scores.items()
    }
    table = pd.DataFrame(by_class)
    table.index = [bench.classes.name(class_id) for class_id in table.index]
    print(table.round(3).to_string())


def row(
    variant: str,
    results: list[metrics.BootstrapResult],
    first: list[metrics.BootstrapResult],
    minutes: list[float],
) -> str:
    """One variant's line of the table."""
    value, samples = summary(results)
    low, high = bias_corrected(samples, value, 0.95)
    text = f"{variant[:43]:<44}{value:>7.3f}   {low:.3f} to {high:.3f}"
    if results is not first:
        base, base_samples = summary(first)
        low, high = bias_corrected(samples - base_samples, value - base, 0.95)
        text += f"{value - base:>+8.3f}  {low:+.3f} to {high:+.3f}"
    else:
        text += " " * 26
    return text + (f"{np.mean(minutes):>9.1f}" if minutes else "")


if __name__ == "__main__":
    main()
