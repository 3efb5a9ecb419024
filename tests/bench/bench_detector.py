"""Images per second of training, inference and scoring, beside a detector written as most people write it.

    python tests/bench/bench_detector.py                  light preset against the plain detector, CPU
    python tests/bench/bench_detector.py --plain-model mobilenet_v3_large_fpn --steps 8 --rounds 3

The plain baseline: float32, three equal channels, an HDF5 file opened anew for every image and read
through gzip at full size, resized on the CPU to 800 x 1000, torchvision's `fasterrcnn_resnet50_fpn_v2`,
SGD 3e-3, no augmentation, images one by one in inference, torchmetrics after every epoch. On a CPU one
of its steps takes a minute, hence few steps; a lighter plain model is one of the options. Rounds of both
are interleaved; the table holds the medians and the ratio. Ours also augments.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import torch
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import detection

from cxr import metrics, schema
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.predict import predict_store
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import train_detector
from cxr.preprocess import preprocess
from cxr.recipes import changed
from cxr.store import ImageStore

PLAIN_MODELS = {
    "resnet50_fpn_v2": detection.fasterrcnn_resnet50_fpn_v2,
    "resnet50_fpn": detection.fasterrcnn_resnet50_fpn,
    "mobilenet_v3_large_fpn": detection.fasterrcnn_mobilenet_v3_large_fpn,
}


def make_images(
    folder: Path, count: int, *, full_size: int, store_size: int
) -> tuple[Path, Path, pd.DataFrame]:
    """Smooth noise with bright ellipses, once as a gzip HDF5 at full size and once as our store."""
    rng = np.random.default_rng(0)
    png = folder / "png" / "train"
    png.mkdir(parents=True)
    plain, rows = folder / "plain.h5", []
    with h5py.File(plain, "w") as file:
        for number in range(count):
            shape = (full_size, int(full_size * rng.choice([0.82, 1.0])))
            pixels = cv2.resize(rng.integers(60, 180, (32, 32), dtype=np.uint8), shape[::-1])
            noise = rng.integers(0, 24, shape, dtype=np.uint8)
            pixels = cv2.add(pixels, noise)
            image_id = f"b{number:04d}"
            for _ in range(3):
                centre = rng.uniform(0.2, 0.8, 2) * shape
                axes = rng.uniform(0.03, 0.12, 2) * full_size
                cv2.ellipse(pixels, (centre[::-1], 2 * axes[::-1], 0.0), 230, -1)
                low, high = centre - axes, centre + axes
                rows.append((image_id, int(rng.integers(14)), low[1], low[0], high[1], high[0]))
            file.create_dataset(image_id, data=pixels, compression="gzip")
            cv2.imwrite(str(png / f"{image_id}.png"), pixels)
    preprocess({"train": png}, folder / "store", image_size=store_size, jobs=1)
    table = pd.DataFrame(rows, columns=[schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS])
    return plain, folder / "store", table


class PlainImages(torch.utils.data.Dataset):
    """The plain way to read an image and its boxes."""

    def __init__(self, path: Path, table: pd.DataFrame, size: tuple[int, int]) -> None:
        self.path, self.table, self.size = path, table, size
        self.ids = sorted(table[schema.IMAGE_ID].unique())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with h5py.File(self.path, "r") as file:
            pixels = file[self.ids[index]][()]
        rows = self.table[self.table[schema.IMAGE_ID] == self.ids[index]]
        x, y = self.size[1] / pixels.shape[1], self.size[0] / pixels.shape[0]
        image = cv2.resize(pixels, self.size[::-1]).astype(np.float32) / 255
        boxes = rows[schema.BOX_COLUMNS].to_numpy(np.float32) * np.array([x, y, x, y], np.float32)
        labels = torch.from_numpy(rows[schema.CLASS_ID].to_numpy(np.int64) + 1)
        return torch.from_numpy(np.stack([image] * 3)), {"boxes": torch.from_numpy(boxes), "labels": labels}


class Plain:
    """The plain training loop and the plain inference loop.

    Args:
        path: HDF5 file of full-size images.
        table: Boxes in original pixels.
        model: A name of `PLAIN_MODELS`.
        size: (rows, columns) of the network's image.
        batch_size: Images a step.
        workers: Loading processes.
        device: Where it runs.
    """

    def __init__(
        self,
        path: Path,
        table: pd.DataFrame,
        *,
        model: str,
        size: tuple[int, int],
        batch_size: int,
        workers: int,
        device: str,
    ) -> None:
        self.images = PlainImages(path, table, size)
        self.device = device
        self.net = PLAIN_MODELS[model](
            weights=None, weights_backbone=None, num_classes=15, min_size=min(size), max_size=max(size)
        ).to(device)
        self.loader = torch.utils.data.DataLoader(
            self.images,
            batch_size=batch_size,
            shuffle=True,
            num_workers=workers,
            collate_fn=lambda b: tuple(zip(*b, strict=True)),
        )

    def train(self, steps: int) -> float:
        """Images per second over `steps` steps after a first one that warms up."""
        optimizer = torch.optim.SGD(self.net.parameters(), lr=3e-3, momentum=0.9, weight_decay=5e-4)
        self.net.train()
        seen, done, started = 0, 0, 0.0
        while done <= steps:
            for images, targets in self.loader:
                if done == 1:  # the first step warms up
                    started, seen = self._now(), 0
                targets = [{k: v.to(self.device) for k, v in t.items()} for t in targets]
                loss = sum(self.net([i.to(self.device) for i in images], targets).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen, done = seen + len(images), done + 1
                if done > steps:
                    break
        seconds = self._now() - started
        return seen / seconds

    def predict(self, count: int) -> float:
        """Images per second, one image at a time."""
        self.net.eval()
        with torch.no_grad():
            self.net([self.images[0][0].to(self.device)])
            started = self._now()
            for index in range(count):
                image, _ = self.images[index % len(self.images)]
                for value in self.net([image.to(self.device)])[0].values():
                    value.cpu()
        return count / (self._now() - started)

    def score(self, count: int) -> float:
        """Images per second of torchmetrics, on `count` images with 100 boxes each."""
        metric = MeanAveragePrecision()
        for found, target in zip(random_boxes(count, seed=1), random_boxes(count, seed=2), strict=True):
            scores = torch.linspace(1, 0.01, 100)
            metric.update(
                [{"boxes": found[0], "scores": scores, "labels": found[1]}],
                [{"boxes": target[0][:3], "labels": target[1][:3]}],
            )
        started = self._now()
        metric.compute()
        return count / (self._now() - started)

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def random_boxes(count: int, *, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Boxes (100, 4) and labels (100,) of `count` images."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 100, 2, generator=generator) * 300
    sides = torch.rand(count, 100, 2, generator=generator) * 300 + 1
    labels = torch.randint(1, 15, (count, 100), generator=generator)
    return list(zip(torch.cat([low, low + sides], dim=2), labels, strict=True))


def score_ours(count: int) -> float:
    """Images per second of our metric on what `Plain.score` scores."""

    def rows(seed: int, most: int) -> pd.DataFrame:
        drawn = random_boxes(count, seed=seed)
        table = pd.DataFrame(
            np.concatenate([boxes[:most].numpy() for boxes, _ in drawn]), columns=schema.BOX_COLUMNS
        )
        table[schema.CLASS_ID] = np.concatenate([labels[:most].numpy() - 1 for _, labels in drawn])
        table[schema.IMAGE_ID] = np.repeat([f"s{n:05d}" for n in range(count)], most)
        return table

    found, truth = rows(1, 100), rows(2, 3)
    found[schema.SCORE] = np.tile(np.linspace(1, 0.01, 100), count)
    metrics.voc_map(found[:100], truth[:3])  # compiles
    started = time.perf_counter()
    metrics.voc_map(found, truth)
    return count / (time.perf_counter() - started)


def train_ours(store: ImageStore, table: pd.DataFrame, out: Path, steps: int, recipe: Recipe) -> float:
    """Images per second between the first and the last step of a training."""
    ticks: list[float] = []
    batch_size = recipe.sampling.batch_size
    recipe = changed(recipe, epochs=1, images_per_epoch=(steps + 1) * batch_size)
    train_detector(
        store, table, store.ids, [], recipe, out,
        progress=lambda done, total: ticks.append(time.perf_counter()),
    )  # fmt: skip
    return (len(ticks) - 1) * batch_size / (ticks[-1] - ticks[0])


def predict_ours(checkpoint: Path, store: ImageStore, count: int, *, batch_size: int) -> float:
    """Images per second of `predict_store`, the first batch left out."""
    detector = load_detector(checkpoint)
    ids = (store.ids * (count // len(store.ids) + 1))[:count]
    predict_store(detector, store, ids[:batch_size], batch_size=batch_size)
    started = time.perf_counter()
    # A store may be asked for an image many times, a table of detections wants each once.
    for start in range(0, count, len(store.ids)):
        predict_store(
            detector, store, sorted(set(ids[start : start + len(store.ids)])), batch_size=batch_size
        )
    return count / (time.perf_counter() - started)


def interleave(rounds: int, *runs: tuple[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each run over interleaved rounds."""
    figures: dict[str, list[float]] = {name: [] for name, _ in runs}
    for _ in range(rounds):
        for name, run in runs:
            figures[name].append(run())
    return {name: statistics.median(values) for name, values in figures.items()}


def report(rows: list[tuple[str, float, float]]) -> None:
    """A table of plain, ours and the ratio."""
    print(f"{'images per second':<28}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for name, plain, ours in rows:
        print(f"{name:<28}{plain:>10.3f}{ours:>10.3f}{ours / plain:>7.1f}x")


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--full-size", type=int, default=2048, help="longer side of the stored plain images")
    parser.add_argument("--store-size", type=int, default=1024, help="longer side in our store")
    parser.add_argument("--image-size", type=int, default=384, help="longer side the light network sees")
    parser.add_argument("--plain-model", choices=list(PLAIN_MODELS), default="resnet50_fpn_v2")
    parser.add_argument("--plain-size", type=int, nargs=2, default=(800, 1000), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_file, store_dir, table = make_images(
            folder, arguments.images, full_size=arguments.full_size, store_size=arguments.store_size
        )
        store, out = ImageStore(store_dir), folder / "out"
        plain = Plain(
            plain_file, table, model=arguments.plain_model, size=tuple(arguments.plain_size),
            batch_size=arguments.batch_size, workers=0, device="cpu",
        )  # fmt: skip
        recipe = changed(
            Recipe(),
            label_mode="fused",
            detector_image_size=arguments.image_size,
            batch_size=arguments.batch_size,
        )
        training = interleave(
            arguments.rounds,
            ("plain", lambda: plain.train(arguments.steps)),
            ("ours", lambda: train_ours(store, table, out, arguments.steps, recipe)),
        )
        inference = interleave(
            arguments.rounds,
            ("plain", lambda: plain.predict(arguments.images)),
            ("ours", lambda: predict_ours(out / "best.ckpt", store, arguments.images, batch_size=8)),
        )
    report(
        [
            ("training", training["plain"], training["ours"]),
            ("inference", inference["plain"], inference["ours"]),
            ("scoring an epoch", plain.score(200), score_ours(200)),
        ]
    )


if __name__ == "__main__":
    main()
