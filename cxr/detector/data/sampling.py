"""Which images an epoch shows, in what order and in what batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch.utils.data import Sampler

from cxr.detector.data.batches import padded
from cxr.detector.data.targets import Target
from cxr.detector.recipe import Sampling


def image_frequencies(
    image_ids: Sequence[str], targets: Mapping[str, Target], *, class_balance: float
) -> np.ndarray:
    """How often each image should be shown, relative to the others; float (N,), at least 1.

    Repeat-factor sampling: an image counts as its rarest class does, and a class that is on a
    share f of the images with boxes counts `(t / f) ** class_balance`, where t is the median
    share. 0 shows all images alike, 0.5 is the value of the LVIS paper.

    References:
        Gupta, Dollar, Girshick: LVIS (2019), section 4.1.
    """
    classes = [np.unique(targets[i].labels) for i in image_ids]
    with_boxes = sum(len(c) > 0 for c in classes)
    frequencies = np.ones(len(classes))
    if class_balance <= 0 or with_boxes == 0:
        return frequencies
    labels, counts = np.unique(np.concatenate(classes), return_counts=True)
    share = counts / with_boxes
    factor = dict(
        zip(labels.tolist(), np.maximum(1.0, (np.median(share) / share) ** class_balance), strict=True)
    )
    for place, found in enumerate(classes):
        if len(found):
            frequencies[place] = max(factor[int(label)] for label in found)
    return frequencies


class EpochBatches(Sampler[list[tuple[int, int, int]]]):
    """Batches of `(epoch, position, index)` keys, a function of seed and epoch alone.

    An epoch's images are drawn so that each gets its expected number of places, rounded up
    or down at random (systematic sampling): with equal frequencies every image comes up equally
    often. They are shuffled, then within a window put together with images of the same
    padded shape so that little of a batch is padding. Every batch is full.

    Args:
        sizes: int (N, 2), network sizes.
        negative: bool (N,), images without boxes.
        frequencies: float (N,), from `image_frequencies`.
        sampling: Batch size, images an epoch and share of negatives.
        seed: Any integer from 0.
        rank: This process among `world`.
        world: Number of processes; each gets other batches, all equally many.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        negative: np.ndarray,
        frequencies: np.ndarray,
        sampling: Sampling,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shapes = np.array([[padded(r), padded(c)] for r, c in sizes.tolist()], dtype=np.int64).reshape(
            -1, 2
        )
        self.positives = np.flatnonzero(~negative)
        self.negatives = np.flatnonzero(negative)
        self.frequencies = frequencies
        self.batch_size = sampling.batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        share = sampling.negative_fraction if sampling.negative_fraction >= 0 else float(negative.mean())
        if not len(self.positives):
            share = 1.0
        elif not len(self.negatives):
            share = 0.0
        wanted = sampling.images_per_epoch or (
            len(self.negatives)
            if share == 1
            else round(float(frequencies[self.positives].sum()) / (1 - share))
        )
        full = self.batch_size * world
        self.images = max(1, -(-wanted // full)) * full
        self.n_negative = round(self.images * share)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.images // (self.batch_size * self.world)

    def draw(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """All batches of an epoch, over all processes."""
        rng = np.random.default_rng([self.seed, epoch, 0])
        chosen = np.concatenate(
            [
                _systematic(
                    self.positives, self.frequencies[self.positives], self.images - self.n_negative, rng
                ),
                _systematic(self.negatives, self.frequencies[self.negatives], self.n_negative, rng),
            ]
        )
        rng.shuffle(chosen)
        window = 16 * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(chosen), window):
            part = chosen[start : start + window]
            part = part[np.lexsort((self.shapes[part, 1], self.shapes[part, 0]))]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        order = rng.permutation(len(batches))
        position = 0
        keyed: list[list[tuple[int, int, int]]] = []
        for number in order:
            keyed.append(
                [(epoch, position + place, int(index)) for place, index in enumerate(batches[number])]
            )
            position += len(batches[number])
        return keyed

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.draw(self.epoch)[self.rank :: self.world])


def _systematic(
    items: np.ndarray, frequencies: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` items, each `count * frequency / sum(frequencies)` times, rounded up or down."""
    if count == 0 or not len(items):
        return np.empty(0, dtype=np.int64)
    order = rng.permutation(len(items))
    edges = np.cumsum(frequencies[order])
    ticks = (np.arange(count) + rng.random()) * (edges[-1] / count)
    return items[order[np.searchsorted(edges, ticks, side="right").clip(max=len(items) - 1)]]
