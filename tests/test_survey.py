"""Headers and sizes of a folder before anything is decoded."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr import survey
from cxr.dicom import load_radiograph
from cxr.errors import DataError
from cxr.preprocess import find_images, image_id_of
from cxr.schema import HEADER_COLUMNS


def test_survey_of_a_folder_with_a_bad_file(phantom_dir: Path, tmp_path: Path) -> None:
    files = find_images(phantom_dir / "train")
    bad = tmp_path / "bad.dicom"
    bad.write_text("no image")
    seen: list[tuple[int, int]] = []
    result = survey.survey_files([*files, bad], jobs=1, progress=lambda *done: seen.append(done))
    assert result.headers["image_id"].tolist() == [image_id_of(path) for path in files]
    assert list(result.headers.columns) == ["image_id", *HEADER_COLUMNS]
    assert result.failed[["image_id", "file", "reason"]].values.tolist() == [
        ["bad", "bad.dicom", "not_an_image"]
    ]
    assert seen[-1] == (len(files) + 1, len(files) + 1)
    image = load_radiograph(files[0])
    assert tuple(result.sizes.iloc[0][["rows", "columns"]]) == image.original_size


def test_survey_takes_the_size_of_a_picture_from_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "x.y.png")
    result = survey.survey_files([tmp_path / "x.y.png"])
    assert result.sizes.values.tolist() == [["x.y", 7, 5]]
    assert result.headers["Transfer Syntax UID"].tolist() == [""]


@pytest.mark.parametrize("damage", ["bomb", "cut"])
def test_survey_survives_pictures_that_pillow_refuses(tmp_path: Path, damage: str) -> None:
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "bad.png")
    content = (tmp_path / "bad.png").read_bytes()
    # The header chunk claims 60,000 x 60,000 pixels, or ends within its numbers.
    head = (60_000).to_bytes(4, "big") * 2 + content[24:29]
    bomb = content[:16] + head + zlib.crc32(b"IHDR" + head).to_bytes(4, "big") + content[33:]
    short = (
        content[:8]
        + b"\0\0\0\5IHDR"
        + content[16:21]
        + zlib.crc32(b"IHDR" + content[16:21]).to_bytes(4, "big")
    )
    (tmp_path / "bad.png").write_bytes(bomb if damage == "bomb" else short)
    result = survey.survey_files([tmp_path / "bad.png"])
    assert result.headers["image_id"].tolist() == ["bad"] and len(result.sizes) == 0


def test_survey_of_nothing() -> None:
    result = survey.survey_files([])
    assert len(result.headers) == len(result.sizes) == len(result.failed) == 0
    assert list(result.sizes.columns) == ["image_id", "rows", "columns"]


def test_read_sizes(tmp_path: Path) -> None:
    assert survey.read_sizes(tmp_path, "train") is None
    (tmp_path / "train_meta.csv").write_text("image_id,dim0,dim1\na,2430,1994\n")
    assert survey.read_sizes(tmp_path, "train").values.tolist() == [["a", 2430, 1994]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,dim0\na,1\n", "missing dim1"),
        ("image_id,dim0,dim1\na,5,6\nb,x,6\n", "train_meta.csv row 2: expected dim0 .* got 'x'"),
        ("image_id,dim0,dim1\na,5,0\n", "row 1: expected dim1 .* got '0'"),
        ("image_id,dim0,dim1,dim1\na,5,6,7\n", "expected the column 'dim1' once, got it twice"),
        ("image_id,dim0,dim1\na,5,6,7\n", r"row 1 \(image a\): expected 3 fields, got 4"),
        ("image_id,dim0,dim1\na,5,6\na,7,8\n", "row 2: expected each image once, got a again"),
    ],
)
def test_read_sizes_names_the_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train_meta.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        survey.read_sizes(tmp_path, "train")


def test_odd_files_names_each_image_once() -> None:
    columns = {
        "Transfer Syntax UID": ["1.2.840.10008.1.2", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", ""],
        "Photometric Interpretation": ["MONOCHROME2", "MONOCHROME1", "MONOCHROME2", ""],
        "Window Width": ["2000", "", "2000", ""],
        "Bits Stored": ["12", "12", "12", ""],
        "Rows": ["30", "30", "20", ""],
        "Columns": ["20", "20", "30", ""],
    }
    table = pd.DataFrame({"image_id": list("abcd")} | {c: [""] * 4 for c in HEADER_COLUMNS} | columns)
    odd = survey.odd_files(table)
    assert odd == {"plain": "a", "stored as a negative": "b", "JPEG 2000": "c", "no DICOM": "d"}


def test_stored_pixels_are_not_windowed(phantom_dir: Path) -> None:
    path = find_images(phantom_dir / "train")[0]
    values = survey.stored_pixels(path, longest_side=64)
    assert max(values.shape) == 64
    assert values.dtype == np.float32


def test_load_examples_passes_over_what_cannot_be_read(phantom_dir: Path, tmp_path: Path) -> None:
    files = find_images(phantom_dir / "train")[:3]
    bad = tmp_path / "bad.dicom"
    bad.write_bytes(files[0].read_bytes()[:900])
    paths = {"bad": bad} | {image_id_of(path): path for path in files}
    loaded = survey.load_examples(paths, ["bad", "no file", *paths], most=2, longest_side=64)
    assert list(loaded) == [image_id_of(path) for path in files[:2]]
    assert max(loaded[image_id_of(files[0])].pixels.shape) == 64
