"""Time of one image in PyTorch and in onnxruntime, resize and suppression included; ratios are interleaved.

python tests/bench/bench_onnx.py [CHECKPOINT] [--size 1024] [--rounds 20] [--threads 1]

Without a checkpoint a light network of random weights at 384 px is timed; its answers are many, as those of
a network before training are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from cxr import schema
from cxr.detector.data.held import HeldImages
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import Detector, load_detector
from cxr.detector.prediction.onnx_file import write_onnx
from cxr.detector.prediction.predict import predict_store


def random_detector() -> Detector:
    """The light network as it starts."""
    torch.manual_seed(0)
    anchors = ((32.0,), (64.0,), (128.0,), (256.0,))
    spec = DetectorSpec("light", schema.VINBIGDATA.names, 384, anchors, (0.5, 1.0, 2.0))
    return Detector(build_network(spec).eval(), spec, "random", "0" * 64)


def main() -> None:
    """Print milliseconds an image of both, and the median of the rounds' ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="longer side of the image, px")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = load_detector(arguments.checkpoint, device="cpu") if arguments.checkpoint else random_detector()
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.size, arguments.size * 5 // 6))
    pixels = pixels.astype(np.uint8)
    held = HeldImages()
    held.add("a", pixels, pixels.shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(made, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        net = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        size = path.stat().st_size / 2**20
    ways = {
        "PyTorch": lambda: predict_store(made, held, ["a"]),
        "onnxruntime": lambda: net.run(None, {"image": pixels}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        print(f"{name}: {1000 * statistics.median(taken):.1f} ms an image of {pixels.shape} px")
    ratios = [a / b for a, b in zip(seconds["PyTorch"], seconds["onnxruntime"], strict=True)]
    print(f"PyTorch / onnxruntime: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"{made.spec.architecture} at {made.spec.image_size} px, {arguments.threads} threads, {size:.1f} MiB"
    )


if __name__ == "__main__":
    main()
