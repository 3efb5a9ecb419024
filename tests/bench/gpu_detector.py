"""The shipped recipe on a CUDA device, beside the plain baseline of `bench_detector.py`.

    python tests/bench/gpu_detector.py                          params/vinbigdata.yaml, random weights
    python tests/bench/gpu_detector.py --set compile_backbone=true --set batch_size=8

Prints images per second in training and inference, the ratios (goals: 3x and 4x), and the share of
training spent waiting for the next batch (goal: under 5%). Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from bench_detector import Plain, interleave, make_images, predict_ours, report, score_ours, train_ours
from torch.utils.data.dataloader import _BaseDataLoaderIter

from cxr import chain
from cxr.detector.recipe import Recipe
from cxr.recipes import changed, from_values
from cxr.store import ImageStore

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def waiting() -> Iterator[list[float]]:
    """Seconds that training waits for each next batch, as it runs."""
    seconds: list[float] = []
    following = _BaseDataLoaderIter.__next__

    def timed(self: _BaseDataLoaderIter) -> object:
        started = time.perf_counter()
        batch = following(self)
        seconds.append(time.perf_counter() - started)
        return batch

    _BaseDataLoaderIter.__next__ = timed
    try:
        yield seconds
    finally:
        _BaseDataLoaderIter.__next__ = following


def shipped_recipe(overrides: list[str]) -> Recipe:
    """The recipe of the parameter file for the full data set, on one device, from random weights."""
    values = chain.load_parameters(ROOT / "params" / "vinbigdata.yaml", ["weights=", *overrides])
    once = {"epochs": 1, "validate_every": 1, "patience": 0, "max_minutes": 0.0, "devices": 1}
    return changed(from_values(Recipe, values), **once, label_mode="fused")


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--full-size", type=int, default=2560, help="longer side of the stored plain images")
    parser.add_argument("--plain-batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    recipe = shipped_recipe(arguments.set)
    with tempfile.TemporaryDirectory() as name, waiting() as waited:
        folder = Path(name)
        plain_file, store_dir, table = make_images(
            folder,
            arguments.images,
            full_size=arguments.full_size,
            store_size=recipe.network.detector_image_size,
        )
        store, out = ImageStore(store_dir), folder / "out"
        plain = Plain(
            plain_file, table, model="resnet50_fpn_v2", size=(800, 1000),
            batch_size=arguments.plain_batch_size, workers=2, device="cuda",
        )  # fmt: skip
        shares: list[float] = []

        def ours() -> float:
            before = len(waited)
            rate = train_ours(store, table, out, arguments.steps, recipe)
            steady = waited[before + 1 : before + 1 + arguments.steps]  # the first starts the workers
            shares.append(sum(steady) * rate / (len(steady) * recipe.sampling.batch_size))
            return rate

        training = interleave(
            arguments.rounds, ("plain", lambda: plain.train(arguments.steps)), ("ours", ours)
        )
        memory = torch.cuda.max_memory_allocated() / 2**30
        inference = interleave(
            arguments.rounds,
            ("plain", lambda: plain.predict(arguments.images)),
            ("ours", lambda: predict_ours(out / "best.ckpt", store, arguments.images * 4, batch_size=16)),
        )
        report(
            [
                ("training", training["plain"], training["ours"]),
                ("inference", inference["plain"], inference["ours"]),
                ("scoring an epoch", plain.score(256), score_ours(256)),
            ]
        )
    print(f"waiting for batches takes {max(shares):.1%} of our training; largest memory {memory:.1f} GiB")


if __name__ == "__main__":
    main()
