"""Find the image files of a folder and give each an id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cxr.dicom import reasons
from cxr.errors import DataError, printable
from cxr.files import times_stay
from cxr.schema import image_id_fault

_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Source:
    """One image file.

    Attributes:
        split: Name of the folder's part in the data set, for example `train`.
        name: File name.
        image_id: File name without a known suffix.
        size: Bytes.
        mtime_ns: Modification time.
    """

    split: str
    name: str
    image_id: str
    size: int
    mtime_ns: int

    @property
    def fingerprint(self) -> tuple[str, int, int]:
        """What must be unchanged for a stored image to still stand for this file."""
        return (self.name, self.size, self.mtime_ns)


@dataclass(frozen=True)
class Failure:
    """A file that is not in the store, and why; a row of `failures.csv`."""

    image_id: str
    split: str
    file: str
    reason: str
    message: str


@dataclass(frozen=True)
class Collection:
    """What the folders of a data set hold.

    Attributes:
        found: The files to read, one for each image id.
        failed: Files that cannot be taken, and why.
        ignored: Number of subfolders and of files whose name is not an image's.
    """

    found: list[Source]
    failed: list[Failure]
    ignored: int


def find_images(folder: Path) -> list[Path]:
    """List the files of a folder that may be radiographs, sorted by name.

    That is every file with a known suffix, and every file whose name has no suffix or a
    numeric one (archives name files by UID: `1.2.840.113619.2`). Whether a file is an image
    is decided by its content, later.

    Args:
        folder: Folder; subfolders and hidden files are left out.

    Returns:
        Paths.

    Raises:
        DataError: The folder does not exist or cannot be listed.
    """
    return _list(folder)[0]


def _list(folder: Path) -> tuple[list[Path], int]:
    """Image files, sorted by name, and the number of entries that are none; hidden ones do not count."""
    folder = Path(folder)
    try:
        with os.scandir(folder) as entries:
            shown = [e for e in entries if not e.name.startswith(".") and e.name.upper() != "DICOMDIR"]
            names = [entry.name for entry in shown if _may_be_image(entry)]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no such folder; expected one with .dicom, .dcm, .png or .jpg files"
        ) from error
    except NotADirectoryError as error:
        raise DataError(f"{folder}: a file, expected a folder of images") from error
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be listed ({error.strerror})") from error
    return [folder / name for name in sorted(names)], len(shown) - len(names)


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if not (suffix in _SUFFIXES or suffix in ("", ".") or suffix[1:].isdigit()):
        return False
    # A link to a file that is gone is a radiograph that is missing, and reading it will say so.
    return entry.is_file(follow_symlinks=False) or (
        entry.is_symlink() and (os.path.isfile(entry.path) or not os.path.exists(entry.path))
    )


def image_id_of(file: str | Path) -> str:
    """Image id of a file, by its name: a known suffix falls off, a UID keeps all its numbers."""
    name = os.path.basename(file)
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _SUFFIXES else name


def collect(sources: dict[str, Path]) -> Collection:
    """Find the files of all splits, one for each image id.

    Args:
        sources: Folder of each split, in order of precedence.

    Returns:
        The files to read, a failure for each that shares its id with an earlier one or whose name
        cannot be an id, and how many entries of the folders are no images.

    Raises:
        DataError: A folder is missing, or no folder has an image.
    """
    found: list[Source] = []
    failed: list[Failure] = []
    first: dict[str, Source] = {}
    ignored = 0
    for split, folder in sources.items():
        paths, others = _list(folder)
        ignored += others
        timed = times_stay(folder)
        for path in paths:
            image_id = image_id_of(path)
            fault = image_id_fault(image_id)
            if fault is not None:
                shown = printable(path.name)
                message = f"{shown}: the file's name cannot be an image id, {fault}"
                failed.append(Failure(printable(image_id), split, shown, reasons.BAD_NAME, message))
                continue
            try:
                stat = path.stat()
            except OSError:
                # Gone or unreachable since it was listed; reading it will say so.
                size, mtime_ns = -1, -1
            else:
                size, mtime_ns = stat.st_size, stat.st_mtime_ns if timed else 0
            source = Source(split, path.name, image_id, size, mtime_ns)
            other = first.setdefault(image_id, source)
            if other is source:
                found.append(source)
            else:
                message = f"{path.name}: image id {image_id} is taken by {other.split}/{other.name}"
                failed.append(Failure(image_id, split, path.name, reasons.DUPLICATE_ID, message))
    if not found and not failed:
        where = ", ".join(str(folder) for folder in sources.values())
        raise DataError(f"{where}: no image files (.dicom, .dcm, .png, .jpg, or without suffix)")
    return Collection(found, failed, ignored)
