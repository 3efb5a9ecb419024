"""Image files as a detector takes them: found, named, and held in memory like a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr import preprocess
from cxr.errors import DataError
from cxr.preprocess import image_id_of


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
