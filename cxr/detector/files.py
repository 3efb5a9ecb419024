"""Image files as a detector takes them: found, named, and held in memory like a store."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from cxr import preprocess
from cxr.detector.data import network_image
from cxr.dicom import Radiograph
from cxr.errors import CxrError, DataError
from cxr.preprocess import image_id_of
from cxr.preprocess.batch import ReaderPool

log = logging.getLogger("cxr")

SECONDS_PER_FILE = 60.0
"""A file that takes longer to read is a failure."""


class HeldImages:
    """Images in memory behind the interface of an image store."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}

    def add(self, image_id: str, pixels: np.ndarray, original_size: tuple[int, int]) -> None:
        """Hold one image, uint8 (H, W), with the (rows, columns) of its file."""
        self._images[image_id] = pixels, (int(original_size[0]), int(original_size[1]))

    @property
    def ids(self) -> list[str]:
        """Ids in the order added."""
        return list(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self._images[image_id][0]

    def original_size(self, image_id: str) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self._images[image_id][1]


def image_files(files: Path | str | Sequence[Path | str]) -> tuple[dict[str, Path], dict[Path, Path]]:
    """Image files by image id, which is the file's name without a known suffix.

    Args:
        files: A file, a folder (all images in it), or a list of files and folders.

    Returns:
        Path of each image id; and the files left out because an earlier one has their image id,
        each with that one.

    Raises:
        DataError: A path does not exist, or there is no image.
    """
    files = [files] if isinstance(files, str | Path) else files
    paths: list[Path] = []
    for file in map(Path, files):
        if file.is_dir():
            paths += preprocess.find_images(file)
        elif file.is_file():
            paths.append(file)
        else:
            raise DataError(f"expected an image file or a folder, found nothing at {file}")
    if not paths:
        raise DataError(f"found no image file in {', '.join(map(str, files))}")
    named: dict[str, Path] = {}
    doubles: dict[Path, Path] = {}
    for path in paths:
        image_id = image_id_of(path)
        other = named.setdefault(image_id, path)
        if other != path:
            doubles[path] = other
    return named, doubles


def read_ahead(
    paths: Sequence[tuple[str, Path]], *, longest_side: int, chunk: int, readers: int = 0
) -> Iterator[tuple[HeldImages, list[tuple[str, str, str]], int]]:
    """Read image files in other processes, the next chunk while the caller works on this one.

    A decoder that aborts ends its process, not this one.

    Args:
        paths: Image ids and files.
        longest_side: Longer side of the images held, in pixels.
        chunk: Files in a chunk.
        readers: Reading processes; 0 for one a core, at most 4.

    Yields:
        The images of a chunk, its failures (file, reason, message), and the number of its files.
    """
    number = min(readers or min(4, os.cpu_count() or 1), len(paths))
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    with closing(ReaderPool()) as pool, ThreadPoolExecutor(max(1, number)) as threads:

        def read(path: Path) -> Radiograph:
            with pool.borrow(SECONDS_PER_FILE) as reader:
                return reader.load(path, longest_side=longest_side)

        def begin(part: Sequence[tuple[str, Path]]) -> list[tuple[str, Path, Future[Radiograph]]]:
            return [(image_id, path, threads.submit(read, path)) for image_id, path in part]

        waiting = begin(chunks[0]) if chunks else []
        for following in [*chunks[1:], []]:
            current, waiting = waiting, begin(following)
            held = HeldImages()
            failures: list[tuple[str, str, str]] = []
            for image_id, path, reading in current:
                try:
                    radiograph = reading.result()
                except CxrError as error:
                    reason = getattr(error, "reason", type(error).__name__)
                    failures.append((str(path), str(reason), str(error)))
                    log.warning("%s left out: %s", path, error)
                else:
                    pixels = network_image(radiograph.pixels, longest_side)
                    held.add(image_id, pixels, radiograph.original_size)
            yield held, failures, len(current)
