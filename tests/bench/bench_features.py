"""Pixel features against the same definitions by scikit-image and mahotas, interleaved in one run.

    python tests/bench/bench_features.py [--rows 3072] [--columns 2560] [--repeats 3] [--phantom DIR]

The rival computes the 39 features on the full-resolution image, as the notebooks that named them
do; ours on a working size (shrinking included in its time), and, to see what the code alone
gains, on the full image too. With `--phantom DIR` (a data folder, see `cxr phantom`) it also
prints the AUC of the classifier built on the features of each working size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cxr import annotations, classifier, dicom, features, schema, splits

WORKING_SIZES = (256, 384, 512, 1024)


def radiograph_like(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Blobs of all sizes with noise, 0..255: about the histogram and texture of a radiograph."""
    draws = np.random.default_rng(seed)
    image = np.zeros((rows, columns), np.float32)
    for side in (4, 16, 64, 256):
        coarse = draws.normal(size=(rows // side + 2, columns // side + 2)).astype(np.float32)
        image += side**0.5 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    image += draws.normal(scale=0.5, size=image.shape).astype(np.float32)
    low, high = np.percentile(image, [1, 99])
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def rival(pixels: np.ndarray) -> dict[str, float] | None:
    """The 39 features by scikit-image, mahotas and scipy; None where one is not installed."""
    try:
        import mahotas
        from scipy import stats
        from skimage import feature, filters, measure
    except ImportError:
        return None
    glcm = feature.graycomatrix(pixels, [1], [0], levels=256, symmetric=True, normed=True)
    real, imaginary = filters.gabor(pixels.astype(float), frequency=0.6, theta=0)
    lbp = feature.local_binary_pattern(pixels, P=8, R=1, method="uniform")
    values = [
        pixels.mean(),
        pixels.std(),
        np.median(pixels),
        *(feature.graycoprops(glcm, n)[0, 0] for n in ("contrast", "correlation", "energy", "homogeneity")),
        real.mean(),
        real.std(),
        imaginary.mean(),
        imaginary.std(),
        *(np.histogram(lbp, bins=10, range=(0, 10))[0] / lbp.size),
        *mahotas.features.haralick(pixels).mean(axis=0),
        np.count_nonzero(filters.sobel(pixels) > features.texture.SOBEL_THRESHOLD),
        np.count_nonzero(feature.canny(pixels, sigma=1)),
        stats.skew(pixels, axis=None),
        stats.kurtosis(pixels, axis=None),
        measure.shannon_entropy(pixels),
    ]
    return dict(zip(schema.PIXEL_FEATURES, map(float, values), strict=True))


def measure_all(pixels: np.ndarray, repeats: int) -> None:
    """Print the median time of each variant, measured in turns, and its ratio to the rival."""
    variants: dict[str, Callable[[], object]] = {"skimage + mahotas, full": lambda: rival(pixels)}
    variants["ours, full"] = lambda: features.pixel_features(pixels, working_size=None)
    for size in reversed(WORKING_SIZES):
        variants[f"ours, {size}"] = lambda size=size: features.pixel_features(pixels, working_size=size)
    if rival(pixels[:64, :64]) is None:
        print("scikit-image or mahotas is not installed: no ratio")
        del variants["skimage + mahotas, full"]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = next(iter(medians.values()))
    print(f"{pixels.shape[0]}x{pixels.shape[1]}, CPU time, median of {repeats} runs in turns")
    print(f"{'variant':<26}{'ms':>10}{'ratio':>9}")
    for name, median in medians.items():
        print(f"{name:<26}{1000 * median:>10.1f}{base / median:>9.1f}")


def compare_sizes(data_dir: Path, sizes: tuple[int | None, ...], repeats: int) -> None:
    """Print the out-of-fold AUC of the classifier for features of each working size."""
    table = annotations.read_annotations(data_dir / "train.csv")
    labels = classifier.image_labels(table)
    paths = {path.stem: path for path in sorted((data_dir / "train").iterdir())}
    rows: dict[int | None, list[dict[str, float]]] = {size: [] for size in sizes}
    for image_id in labels.index:
        pixels = dicom.load_radiograph(paths[image_id]).pixels
        for size in sizes:
            rows[size].append(features.pixel_features(pixels, working_size=size))
    print(f"{len(labels)} images, AUC out of fold, mean over {repeats} seeds of folds and trees")
    scored: dict[int | None, list[float]] = {}
    for size in sizes:
        pixel_table = features.pixel_feature_table({}, [])
        pixel_table = pixel_table.reindex(range(len(labels))).assign(
            image_id=labels.index,
            **{name: [row[name] for row in rows[size]] for name in schema.PIXEL_FEATURES},
        )
        scored[size] = []
        for seed in range(repeats):
            folds = splits.make_folds(table, seed=seed)
            result = classifier.cross_validate(pixel_table, labels, folds, classifier.Recipe(seed=seed))
            scores = classifier.scores(result.oof["abnormal"], result.oof["p_abnormal"], resamples=0)
            scored[size].append(scores["value"][0])
    for size in sizes:
        # Folds and trees of one seed are the same for every size, so their differences say more.
        more = np.subtract(scored[size], scored[None])
        error = more.std(ddof=1) / repeats**0.5 if repeats > 1 else float("nan")
        print(
            f"{size or 'full'!s:>6}  AUC {np.mean(scored[size]):.4f}"
            f"  against the full image {more.mean():+.4f} (standard error over seeds {error:.4f})"
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=3072)
    parser.add_argument("--columns", type=int, default=2560)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--phantom", type=Path, help="data folder; compares the AUC of the working sizes")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the AUC comparison")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.phantom:
        compare_sizes(arguments.phantom, (*WORKING_SIZES, None), arguments.seeds)
    else:
        measure_all(radiograph_like(arguments.rows, arguments.columns), arguments.repeats)


if __name__ == "__main__":
    main()
