"""Boxes on image files: found, named, read in other processes while the network works."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr import preprocess
from cxr.detector.data.held import HeldImages
from cxr.detector.data.pixels import network_image
from cxr.detector.prediction.detector import Detector
from cxr.detector.prediction.looks import ONE_LOOK, Looks
from cxr.detector.prediction.predict import ensemble_of, predict_store
from cxr.dicom import Radiograph
from cxr.errors import CxrError, DataError, printable
from cxr.preprocess import image_id_of
from cxr.preprocess.batch import ReaderPool

log = logging.getLogger("cxr")

SECONDS_PER_FILE = 60.0
"""A file that takes longer to read is a failure."""

FAILURE_COLUMNS = ["file", "reason", "message"]


def predict_files(
    detectors: Detector | Sequence[Detector],
    files: Path | str | Sequence[Path | str],
    *,
    looks: Looks = ONE_LOOK,
    batch_size: int = 8,
    decoders: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detections on image files: DICOM, or 8/16-bit grey PNG/JPEG.

    A file that cannot be read, or whose decoder crashes, goes into the table of failures; the rest is
    predicted. While the network looks at some files the next are decoded.

    Args:
        detectors: One or several, of the same classes.
        files: A file, a folder (all images in it), or a list of files and folders.
        looks: How to look, and how to fuse.
        batch_size: Largest batch.
        decoders: Decoding processes; 0 for one a core, at most 4.
        progress: Called with files done and all files.

    Returns:
        Detections with `schema.DETECTION_COLUMNS` in pixels of each file, the image id
        being the file's name without a known suffix; and failures (`FAILURE_COLUMNS`).

    Raises:
        DataError: A path does not exist, or there is no image.
        CheckpointError: The detectors were trained for different classes.
    """
    tables, failures = [], []
    for part in predict_in_parts(detectors, files, looks=looks, batch_size=batch_size, decoders=decoders):
        tables.append(part.detections)
        failures.append(part.failures)
        if progress is not None:
            progress(part.done, part.total)
    return pd.concat(tables, ignore_index=True), pd.concat(failures, ignore_index=True)


@dataclass(frozen=True)
class Part:
    """What was found on some of the files.

    Attributes:
        detections: `schema.DETECTION_COLUMNS`.
        failures: `FAILURE_COLUMNS`.
        files: Path of each image that was read, by image id.
        done: Files done so far, those of earlier parts included.
        total: All files.
    """

    detections: pd.DataFrame
    failures: pd.DataFrame
    files: dict[str, Path]
    done: int
    total: int


def predict_in_parts(
    detectors: Detector | Sequence[Detector],
    files: Path | str | Sequence[Path | str],
    *,
    looks: Looks = ONE_LOOK,
    batch_size: int = 8,
    decoders: int = 0,
) -> Iterator[Part]:
    """As `predict_files`, a part at a time, so that what was found can be written as it comes."""
    members = ensemble_of(detectors)
    named, doubles = image_files(files)
    paths = [(image_id, path) for image_id, path in named.items() if _is_text(image_id)]
    longest = max(round(d.spec.image_size * scale) for d in members for scale in looks.tta_scales)
    failures = [
        (printable(path), "duplicate_id", f"{printable(path)}: {printable(other)} has the same image id")
        for path, other in doubles.items()
    ]
    for _, _, message in failures:
        log.warning("left out: %s", message)
    failures += [
        (printable(path), "file_name", f"{printable(path)}: the name is no UTF-8 text; rename the file")
        for image_id, path in named.items()
        if not _is_text(image_id)
    ]
    done = len(named) - len(paths)
    nothing = HeldImages(), list[tuple[str, str, str]](), 0
    parts = read_ahead(paths, longest_side=longest, chunk=max(4 * batch_size, 16), decoders=decoders)
    for held, failed, count in parts if paths else [nothing]:
        done += count
        yield Part(
            predict_store(members, held, held.ids, looks=looks, batch_size=batch_size),
            pd.DataFrame(failures + failed, columns=FAILURE_COLUMNS),
            {image_id: named[image_id] for image_id in held.ids},
            done,
            len(named),
        )
        failures = []


def _is_text(name: str) -> bool:
    """Whether a name's bytes are UTF-8; Python keeps others as lone surrogates, which no table can hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
            found = "something else" if file.exists() else "nothing"
            raise DataError(f"expected an image file or a folder, found {found} at {printable(file)}")
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
    paths: Sequence[tuple[str, Path]], *, longest_side: int, chunk: int, decoders: int = 0
) -> Iterator[tuple[HeldImages, list[tuple[str, str, str]], int]]:
    """Read image files in other processes, the next chunk while the caller works on this one.

    A decoder that aborts ends its process, not this one.

    Args:
        paths: Image ids and files.
        longest_side: Longer side of the images held, in pixels.
        chunk: Files in a chunk.
        decoders: Decoding processes; 0 for one a core, at most 4.

    Yields:
        The images of a chunk, its failures (file, reason, message), and the number of its files.
    """
    number = min(decoders or min(4, os.cpu_count() or 1), len(paths))
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    with closing(ReaderPool()) as pool, ThreadPoolExecutor(max(1, number)) as threads:

        def read(path: Path) -> Radiograph:
            with pool.borrow(SECONDS_PER_FILE) as decoder:
                return decoder.load(path, longest_side=longest_side)

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
                    failures.append((printable(path), str(reason), str(error)))
                    log.warning("%s left out: %s", printable(path), error)
                else:
                    pixels = network_image(radiograph.pixels, longest_side)
                    held.add(image_id, pixels, radiograph.original_size)
            yield held, failures, len(current)
