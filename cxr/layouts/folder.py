"""The files of a source folder: found once, images apart, looked up by what tables call them."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from cxr.errors import DataError, printable
from cxr.layouts.layout import Notes
from cxr.preprocess import find_images, image_id_of
from cxr.schema import image_id_fault

_IMAGE_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")
_OTHER_PICTURES = (".bmp", ".tif", ".tiff", ".gif", ".jp2", ".webp", ".nii", ".npy")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_MAX_TEXT = 2 << 30


class SourceFolder:
    """All files below a folder, linked folders included, hidden ones left out.

    Args:
        root: The folder.
        notes: Where what cannot be used is counted.

    Raises:
        DataError: No such folder, or an archive or another file instead of one.
    """

    def __init__(self, root: Path, notes: Notes) -> None:
        _check(root)
        self.root = root.resolve()
        self.notes = notes
        self.images: list[Path] = []
        self.others: list[Path] = []
        seen: set[str] = set()
        for place, folders, names in os.walk(self.root, followlinks=True, onerror=self._closed):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()  # a link back up, or to a folder that was here before
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and name.upper() != "DICOMDIR":
                    self._sort_in(Path(place, name))
        self._by_id: dict[str, list[Path]] = defaultdict(list)
        for path in self.images:
            self._by_id[image_id_of(path)].append(path)
        self._by_folded: dict[str, list[str]] = defaultdict(list)
        for image_id in self._by_id:
            self._by_folded[_folded(image_id)].append(image_id)

    def _closed(self, error: OSError) -> None:
        self.notes.leave("folders that may not be listed", [str(error.filename)])

    def _sort_in(self, path: Path) -> None:
        relative = str(path.relative_to(self.root))
        try:
            kind = path.stat().st_mode
        except OSError:
            self.notes.leave("links to files that are gone", [relative])
            return
        suffix = path.suffix.lower()
        if not stat.S_ISREG(kind):
            if not stat.S_ISDIR(kind):
                self.notes.leave("pipes, sockets and devices", [relative])
        elif suffix in _IMAGE_SUFFIXES or suffix[1:].isdigit() or _is_dicom_without_suffix(path):
            if fault := image_id_fault(image_id_of(path)):
                self.notes.leave(f"images whose name cannot be an id: {fault}", [relative])
            else:
                self.images.append(path)
        elif suffix in _OTHER_PICTURES:
            self.notes.leave(f"pictures of a kind that is not read ({suffix})", [relative])
        elif suffix in _ARCHIVES and not path.name.lower().endswith(".csv.gz"):
            self.notes.leave("archives, not unpacked", [relative])
        else:
            self.others.append(path)

    def named(self, *names: str) -> list[Path]:
        """Other files of these names, letter case aside, the nearest to the root first."""
        wanted = {name.lower() for name in names}
        return self._nearest(path for path in self.others if path.name.lower() in wanted)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Other files with one of these suffixes, the nearest to the root first."""
        return self._nearest(path for path in self.others if path.suffix.lower() in suffixes)

    def _nearest(self, paths: Iterable[Path]) -> list[Path]:
        return sorted(paths, key=lambda path: (len(path.parts), str(path)))

    def relative(self, path: Path) -> str:
        """A file's path from the source folder, with `/`."""
        return path.relative_to(self.root).as_posix()

    def below(self, *words: str) -> list[Path]:
        """Images of which a folder's name is one of these words, letter case aside."""
        wanted = {word.lower() for word in words}
        return [
            p for p in self.images if wanted & {part.lower() for part in p.relative_to(self.root).parts[:-1]}
        ]

    def find(self, reference: str, folder: str = "") -> tuple[Path | None, str]:
        """Look up the file that a table calls `reference`.

        Args:
            reference: A path, a file's name or an id; numbers may have lost their zeros.
            folder: Where several files have that name, one that lies below a folder of this name is taken.

        Returns:
            The file and what was mended to find it, "" where nothing was; or None and why there is none.
        """
        reference = reference.strip().replace("\\", "/")
        name = PurePosixPath(reference).name
        exact = self._by_id.get(image_id_of(name), []) if name else []
        mended = ""
        if not exact and name:
            plain = image_id_of(name.removesuffix(".0") if name.removesuffix(".0").isdigit() else name)
            near = self._by_folded.get(_folded(plain), [])
            if len(near) > 1 and plain in near:
                near = [plain]
            if len(near) != 1:
                return None, "several files it may mean" if near else "no file"
            exact, mended = (
                self._by_id[near[0]],
                "ids whose zeros, letter case or decimals differ from the file's name",
            )
        chosen = self._narrow(exact, reference, folder)
        if len(chosen) != 1:
            return None, "several files it may mean"
        return chosen[0], mended

    def _narrow(self, paths: list[Path], reference: str, folder: str) -> list[Path]:
        if len(paths) < 2:
            return paths
        tail = f"/{reference.lstrip('./')}"
        tests: tuple[Callable[[Path], bool], ...] = (
            lambda path: self.relative(path) == reference,
            lambda path: f"/{self.relative(path)}".endswith(tail),
            lambda path: folder.lower() in self.relative(path).lower().split("/")[:-1],
        )
        for test in tests:
            kept = [path for path in paths if test(path)]
            if len(kept) == 1:
                return kept
            paths = kept or paths
        return paths


def _folded(image_id: str) -> str:
    """An id without what spreadsheets and file systems lose: letter case, and a number's leading zeros."""
    return image_id.lstrip("0") or "0" if image_id.isdigit() else image_id.casefold()


def read_bytes(path: Path) -> bytes:
    """Content of a table or a document.

    Raises:
        DataError: It cannot be read, or is larger than any table is.
    """
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise DataError(
                f"{printable(path)}: expected a table or a document, got a file of more than 2 GB"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read ({error.strerror})") from error


def _check(root: Path) -> None:
    if root.is_dir():
        find_images(root)  # says so where the folder may not be listed
        return
    if not root.exists():
        raise DataError(f"{printable(root)}: no such folder; expected one with images and boxes")
    if root.suffix.lower() in _ARCHIVES:
        raise DataError(f"{printable(root)}: an archive; unpack it, then give the folder")
    raise DataError(f"{printable(root)}: a file; expected the folder that holds the images and the boxes")


def _is_dicom_without_suffix(path: Path) -> bool:
    if path.suffix not in ("", "."):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
