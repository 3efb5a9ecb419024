"""A training step of the light network on a CPU: images a second with and without what makes it fast.

    python tests/bench/bench_step.py                    one thread, 384 px, three interleaved rounds
    python tests/bench/bench_step.py --profile          also where the time of a step goes

Each row switches one thing off: the pooling that gathers rows (torchvision's kernel instead), channels last
in memory, 16 bits (on CPUs that have tiles for them), and all three. Counts CPU seconds, so that what else
runs on the machine disturbs little; medians over the rounds, and the ratio to all three off.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from bench_detector import make_images
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import MultiScaleRoIAlign

from cxr.detector.network.pooling import GatheredRoIAlign
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import train_detector
from cxr.recipes import changed
from cxr.store import ImageStore

OFF = {
    "as it is": (),
    "torchvision's pooling": ("pooling",),
    "channels first": ("layout",),
    "float32": ("precision",),
    "all three": ("pooling", "layout", "precision"),
}
WARM_UP = 3


@contextmanager
def without(parts: tuple[str, ...]) -> Iterator[None]:
    """Work with some parts switched off."""
    with ExitStack() as stack:
        if "pooling" in parts:
            stack.enter_context(mock.patch.object(GatheredRoIAlign, "forward", MultiScaleRoIAlign.forward))
        if "layout" in parts:
            stack.enter_context(mock.patch.object(torch, "channels_last", torch.contiguous_format))
        yield


def images_a_second(
    store: ImageStore, table: object, out: Path, *, off: tuple[str, ...], size: int, steps: int
) -> float:
    """Images of a CPU second over `steps` steps after some that warm up."""
    recipe = changed(
        Recipe(),
        accelerator="cpu",
        label_mode="fused",
        detector_image_size=size,
        negative_fraction=0.0,
        epochs=1,
        weights="",
        images_per_epoch=4 * (steps + WARM_UP),
        precision="32-true" if "precision" in off else "auto",
    )
    times: dict[int, float] = {}
    with without(off):
        train_detector(
            store,
            table,
            store.ids_of("train"),
            [],
            recipe,
            out,
            progress=lambda done, _: times.setdefault(done, time.process_time()),
        )
    return 4 * (steps - 1) / (times[WARM_UP + steps - 1] - times[WARM_UP])


def main() -> None:
    """Print the table, and the profile where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=384, help="px, longer side of the network's image")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, stored, table = make_images(folder, 32, full_size=600, store_size=512)
        store = ImageStore(stored)
        rates: dict[str, list[float]] = {label: [] for label in OFF}
        for _ in range(arguments.rounds):
            for label, off in OFF.items():
                rates[label].append(
                    images_a_second(
                        store, table, folder / "out", off=off, size=arguments.size, steps=arguments.steps
                    )
                )
        slowest = statistics.median(rates["all three"])
        print(f"{'switched off':<24}{'images/s':>10}{'ratio':>8}")
        for label, found in rates.items():
            print(f"{label:<24}{statistics.median(found):>10.1f}{statistics.median(found) / slowest:>8.2f}")
        if arguments.profile:
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                images_a_second(
                    store, table, folder / "out", off=(), size=arguments.size, steps=arguments.steps
                )
            print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
