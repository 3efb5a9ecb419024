"""What a folder of images is like before it is converted: headers, sizes, odd files, stored pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cxr.dicom import IsolatedReader, Radiograph, codecs, colour, read_header, reasons
from cxr.dicom.container import open_dataset, sniff
from cxr.dicom.header import read_uid, uid_code
from cxr.dicom.layout import read_layout
from cxr.dicom.picture import picture_size, read_picture
from cxr.dicom.radiograph import target_size
from cxr.errors import DataError, DicomReadError, printable
from cxr.preprocess import image_id_of
from cxr.schema import HEADER_COLUMNS, IMAGE_ID, SIZE_COLUMNS, image_id_fault
from cxr.tables import read_text_table

FAILED_COLUMNS = [IMAGE_ID, "file", "reason", "message"]
_CHUNK = 64  # files of one task: enough work to pay for handing it over


@dataclass(frozen=True)
class Survey:
    """Headers and sizes of a set of files.

    Attributes:
        headers: `image_id` and `schema.HEADER_COLUMNS`, one row per readable file, empty where a field
            is missing.
        sizes: `schema.SIZE_COLUMNS`, one row per file whose size is known.
        failed: `image_id, file, reason, message`, one row per file that could not be read.
    """

    headers: pd.DataFrame
    sizes: pd.DataFrame
    failed: pd.DataFrame


def survey_files(
    files: Sequence[Path],
    *,
    jobs: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Read the header and the size of every file; one bad file stops nothing.

    Args:
        files: DICOM, PNG or JPEG files.
        jobs: Processes; -1 for one a core.
        progress: Called with the number of files done and in all.

    Returns:
        The survey, in the order of the files.
    """
    rows = _read_all(files, jobs, progress)
    headers = pd.DataFrame([good for good, _ in rows if good], columns=[IMAGE_ID, *HEADER_COLUMNS, "size"])
    failed = pd.DataFrame([bad for _, bad in rows if bad], columns=FAILED_COLUMNS)
    known = headers.dropna(subset=["size"])
    sizes = pd.DataFrame(known["size"].tolist(), columns=SIZE_COLUMNS[1:], index=known.index)
    sizes.insert(0, IMAGE_ID, known[IMAGE_ID])
    return Survey(headers.drop(columns="size"), sizes.reset_index(drop=True), failed)


def sizes_of(
    files: Sequence[Path],
    *,
    jobs: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, tuple[int, int] | None]:
    """Rows and columns of every file, from its header alone.

    Args:
        files: DICOM, PNG or JPEG files.
        jobs: Processes; -1 for one a core.
        progress: Called with the number of files done and in all.

    Returns:
        (rows, columns) by file; None where the header cannot be read.
    """
    rows = _read_all(files, jobs, progress)
    return {path: good.get("size") for path, (good, _) in zip(files, rows, strict=True)}


def _read_all(
    files: Sequence[Path], jobs: int, progress: Callable[[int, int], None] | None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    parts = [list(files[i : i + _CHUNK]) for i in range(0, len(files), _CHUNK)]
    workers = 1 if len(parts) < 4 else jobs
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in Parallel(n_jobs=workers, return_as="generator")(delayed(_read_part)(p) for p in parts):
        rows += part
        if progress:
            progress(len(rows), len(files))
    return rows


def _read_part(files: list[Path]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [_read_one(path) for path in files]


def _read_one(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Row of the header table and row of the failure table; one of them is empty."""
    image_id = image_id_of(path)
    try:
        if (fault := image_id_fault(image_id)) is not None:
            message = f"{printable(path.name)}: the file's name cannot be an image id, {fault}"
            raise DicomReadError(reasons.BAD_NAME, message)
        header = read_header(path)
        return {IMAGE_ID: image_id, **header, "size": _size(path, header)}, {}
    except DicomReadError as error:
        row = (printable(image_id), printable(path.name), error.reason, str(error))
        return {}, dict(zip(FAILED_COLUMNS, row, strict=True))


def _size(path: Path, header: dict[str, str]) -> tuple[int, int] | None:
    if header["Rows"].isdigit() and header["Columns"].isdigit():
        return int(header["Rows"]), int(header["Columns"])
    return picture_size(path)


def uid_table(files: Sequence[Path]) -> pd.DataFrame:
    """Which code of the header table stands for which SOP Instance UID.

    Args:
        files: DICOM files; those that cannot be read, and PNG and JPEG, are left out.

    Returns:
        `image_id`, `code`, `sop_instance_uid`, a row a file. It identifies images.
    """
    rows = []
    for path in files:
        with suppress(DicomReadError):
            if uid := read_uid(path):
                rows.append((image_id_of(path), uid_code(uid), uid))
    return pd.DataFrame(rows, columns=[IMAGE_ID, "code", "sop_instance_uid"])


def read_sizes(data_dir: Path, split: str) -> pd.DataFrame | None:
    """Original sizes from `train_meta.csv` or `test_meta.csv`, where a data folder has one.

    People who work from a converted copy of the images keep the boxes in original pixels; these
    tables (`image_id, dim0, dim1`) say how large the originals were.

    Args:
        data_dir: The data folder.
        split: `train` or `test`.

    Returns:
        `schema.SIZE_COLUMNS`, or None without such a file.

    Raises:
        DataError: A column is missing or there twice, a row is not as wide as the header, a size is not a
            positive whole number, or an image comes twice.
    """
    path = Path(data_dir) / f"{split}_meta.csv"
    if not path.is_file():
        return None
    table = read_text_table(path, [IMAGE_ID, "dim0", "dim1"])
    missing = [name for name in (IMAGE_ID, "dim0", "dim1") if name not in table]
    if missing:
        raise DataError(f"{path.name}: expected columns image_id, dim0, dim1, missing {', '.join(missing)}")
    for column in ("dim0", "dim1"):
        bad = ~table[column].str.fullmatch(r"[1-9]\d*")
        if bad.any():
            row = table[bad].iloc[0]
            text = f"expected {column} in whole pixels above 0, got {printable(row[column])!r}"
            raise DataError(f"{path.name} row {row.name}: {text}")
    twice = table[IMAGE_ID].duplicated()
    if twice.any():
        row = table[twice].iloc[0]
        raise DataError(f"{path.name} row {row.name}: expected each image once, got {row[IMAGE_ID]} again")
    table = table.astype({"dim0": int, "dim1": int})
    return table.rename(columns={"dim0": "rows", "dim1": "columns"})[SIZE_COLUMNS].reset_index(drop=True)


def odd_files(headers: pd.DataFrame) -> dict[str, str]:
    """One file of each kind that trips up a careless reader, after a plain one.

    Args:
        headers: `image_id` and `schema.HEADER_COLUMNS`, as `survey_files` or notebook 02 makes them.

    Returns:
        What is odd to the first image id it applies to, each image once; kinds that do not occur are
        left out.
    """
    text = headers.astype("string").fillna("")
    width = pd.to_numeric(text["Window Width"].str.extract(r"(-?\d+\.?\d*)")[0], errors="coerce")
    span = np.exp2(pd.to_numeric(text["Bits Stored"], errors="coerce"))
    rows, columns = (pd.to_numeric(text[name], errors="coerce") for name in ("Rows", "Columns"))
    negative = text["Photometric Interpretation"] == "MONOCHROME1"
    sane = width.gt(1) & width.le(1.2 * span)
    dicom = text["Transfer Syntax UID"] != ""
    kinds = {
        "plain": dicom & ~negative & sane,
        "stored as a negative": negative,
        "no window": dicom & width.isna(),
        "window of one grey level": width <= 1,
        "window beyond the bit range": width > 1.2 * span,
        "JPEG 2000": text["Transfer Syntax UID"].str.startswith("1.2.840.10008.1.2.4.9"),
        "landscape": columns > rows,
        "no DICOM": ~dicom,
    }
    found: dict[str, str] = {}
    for kind, mask in kinds.items():
        ids = [i for i in headers.loc[mask.fillna(False), IMAGE_ID] if i not in found.values()]
        if ids:
            found[kind] = ids[0]
    return found


def load_examples(
    paths: Mapping[str, Path], image_ids: Sequence[str], *, most: int, longest_side: int
) -> dict[str, Radiograph]:
    """The first few images that can be read, for pictures; unreadable ones are passed over.

    They are read in a child process, so that a decoder that aborts takes no notebook along.

    Args:
        paths: File of each image id.
        image_ids: Images to try, in order; those without a file are passed over.
        most: How many to load.
        longest_side: Longer side of the result in pixels.

    Returns:
        Radiographs by image id, in order.
    """
    loaded: dict[str, Radiograph] = {}
    with IsolatedReader() as reader:
        for image_id in image_ids:
            if len(loaded) >= most:
                break
            if image_id in paths:
                with suppress(DicomReadError):
                    loaded[image_id] = reader.load(paths[image_id], longest_side=longest_side)
    return loaded


def stored_pixels(path: Path, *, longest_side: int) -> np.ndarray:
    """The numbers a file holds, with no LUT, no window and no inversion: what a careless reader sees.

    For files that are in the store: the same decoder has read them in a child process before.

    Args:
        path: DICOM, PNG or JPEG file.
        longest_side: Longer side of the result in pixels, aspect kept.

    Returns:
        float32 (H, W), in stored units.

    Raises:
        DicomReadError: The file cannot be read as one grey radiograph.
    """
    if sniff(path) != "dicom":
        values = read_picture(path)
        size = (values.shape[0], values.shape[1])
    else:
        with open_dataset(path) as (dataset, stream):
            layout = read_layout(dataset, path.name)
            if layout.coloured:
                values = colour.read_grey(dataset, stream, path, layout)
            else:
                values = codecs.decode(dataset, stream, path, layout, longest_side=longest_side).values
        size = (layout.rows, layout.columns)
    rows, columns = target_size(size, longest_side)
    return cv2.resize(values.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
