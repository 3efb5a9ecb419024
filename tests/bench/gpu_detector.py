"""Full-size training and inference on a CUDA device, beside the plain baseline of `bench_detector.py`.

    python tests/bench/gpu_detector.py --architecture resnet50_fpn_v2 --image-size 1024

Prints images per second in training and inference, the ratios (goals: 3x and 4x), and the share of a
step that loading its batch takes (goal: under 5%). Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from bench_detector import Plain, interleave, make_images, predict_ours, report, train_ours

from cxr.detector.data import RadiographDataset, make_loader
from cxr.store import ImageStore


def loading_rate(store: ImageStore, *, image_size: int, batch_size: int, num_workers: int) -> float:
    """Images per second that our loader delivers when nobody has to wait for anything else."""
    dataset = RadiographDataset(store, store.ids, None, image_size=image_size, cache_mib=0)
    whole = [list(range(len(store.ids)))[i : i + batch_size] for i in range(0, len(store.ids), batch_size)]
    batches = [batch for _ in range(8) for batch in whole]
    loader = iter(make_loader(dataset, batches, num_workers=num_workers, pin_memory=True))
    next(loader)
    started, seen = time.perf_counter(), 0
    for batch in loader:
        seen += len(batch["image_ids"])
    return seen / (time.perf_counter() - started)


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="resnet50_fpn_v2")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--full-size", type=int, default=2560, help="longer side of the stored plain images")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--plain-batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    parser.add_argument("--no-channels-last", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_file, store_dir, table = make_images(
            folder, arguments.images, full_size=arguments.full_size, store_size=arguments.image_size
        )
        store, out = ImageStore(store_dir), folder / "out"
        plain = Plain(
            plain_file, table, model="resnet50_fpn_v2", size=(800, 1000),
            batch_size=arguments.plain_batch_size, workers=2, device="cuda",
        )  # fmt: skip
        settings = {
            "architecture_name": arguments.architecture,
            "image_size": arguments.image_size,
            "batch_size": arguments.batch_size,
            "num_workers": arguments.workers,
            "channels_last": not arguments.no_channels_last,
            "compile_backbone": arguments.compile,
            "optimizer": "sgd",
        }
        training = interleave(
            arguments.rounds,
            ("plain", lambda: plain.train(arguments.steps)),
            ("ours", lambda: train_ours(store, table, out, arguments.steps, **settings)),
        )
        memory = torch.cuda.max_memory_allocated() / 2**30
        inference = interleave(
            arguments.rounds,
            ("plain", lambda: plain.predict(arguments.images)),
            ("ours", lambda: predict_ours(out / "best.ckpt", store, arguments.images * 4, batch_size=16)),
        )
        loading = loading_rate(
            store, image_size=arguments.image_size, batch_size=arguments.batch_size, num_workers=0
        )
    report(
        [
            ("training", training["plain"], training["ours"]),
            ("inference", inference["plain"], inference["ours"]),
        ]
    )
    share = training["ours"] / loading
    print(f"our loader, one process: {loading:.0f} images/s, its batch takes {share:.1%} of a training step")
    print(f"largest GPU memory: {memory:.1f} GiB; torchmetrics on 256 images: {plain.validate(256):.1f} s")


if __name__ == "__main__":
    main()
