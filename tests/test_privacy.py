"""A marker in every text of a file: in no byte that preprocessing or a survey leaves, and in no message."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_files import MARKER, chest, plant, write_dicom
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from cxr import features, schema, survey
from cxr.dicom import DicomReadError, IsolatedReader, load_radiograph, read_header, reasons
from cxr.preprocess import preprocess
from cxr.survey import survey_files


def marked(path: Path, syntax: str) -> tuple[Path, int]:
    ds = pydicom.dcmread(write_dicom(path, chest(60, 50), syntax=syntax))
    planted = plant(ds)
    with pydicom.config.disable_value_validation():
        ds.save_as(path)
    return path, planted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marked files that can be read, and marked files that cannot, each in another way."""
    folder = tmp_path_factory.mktemp("marked")
    for number, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless)):
        path, planted = marked(folder / f"good{number}.dcm", syntax)
        assert planted > 1000 and path.read_bytes().count(MARKER.encode()) > 1000
    good = (folder / "good0.dcm").read_bytes()
    squeezed = (folder / "good2.dcm").read_bytes()
    marker = MARKER.encode()

    def put(name: str, content: bytes) -> None:
        assert content not in (good, squeezed)
        (folder / name).write_bytes(content)

    put("text.dcm", marker * 100)
    put("headless.dcm", marker * 32 + b"NONE" + good[132:])
    put("photometric.dcm", good.replace(b"MONOCHROME2 ", marker.ljust(12)))
    put("syntax.dcm", good.replace(b"1.2.840.10008.1.2.1\0", marker.ljust(20)))
    put("type.dcm", good.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00" + marker[:2]))
    put("value.dcm", good.replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0DS\2\0"))
    put("representation.dcm", good.replace(b"\x10\0\x10\0PN", b"\x10\0\x10\0" + marker[:2]))
    put("cut.dcm", good[:-200])
    ds = pydicom.dcmread(folder / "good0.dcm")
    ds.add_new("NumberOfFrames", "LO", MARKER)
    ds["NumberOfFrames"].VR = "IS"
    ds.save_as(folder / "frames.dcm")
    put("codestream.dcm", squeezed.replace(b"\xff\x93", marker[:2]))
    put("no codestream.dcm", squeezed.replace(b"\xff\x4f\xff\x51", marker))
    texts = PngInfo()
    texts.add_text("Comment", MARKER)
    Image.fromarray(chest(60, 50, bits=8)).save(folder / "good.png", pnginfo=texts)
    picture = (folder / "good.png").read_bytes()
    put("chunk.png", picture.replace(b"IDAT", marker))
    return folder


def all_bytes(root: Path) -> Iterator[tuple[Path, bytes]]:
    for path in root.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_no_text_of_a_file_leaves_it(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    for compression in ("none", "gzip"):
        out = tmp_path / compression
        result = preprocess(
            {MARKER.lower(): folder},
            out,
            image_size=32,
            jobs=1,
            compression=compression,
            max_failed_fraction=1.0,
        )
        assert result.stored >= 4 and result.failed >= 10, pd.read_csv(out / "failures.csv").to_string()
        for path, content in all_bytes(out):
            # Text may be stored as UTF-16 by somebody; pixels are not text.
            for form in (MARKER.encode(), MARKER.encode("utf-16-le"), MARKER[::-1].encode()):
                assert form not in content, f"{path} holds the marker"
    assert MARKER not in caplog.text and MARKER not in result.summary
    headers = pd.read_csv(out / "dicom_metadata.csv", dtype=str, keep_default_na=False)
    dicom = headers[headers["Transfer Syntax UID"] != ""]
    assert set(dicom["Patient's Sex"]) == set(dicom["Patient's Age"]) == {schema.INVALID}
    table = features.header_features(headers)
    assert MARKER not in " ".join(table.columns) + table.to_csv()
    assert table["header_version_missing"].tolist() == [
        float(name.endswith("png")) for name in headers["File Name"]
    ]


def test_a_survey_holds_no_text_of_a_file(folder: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    survey = survey_files(sorted(folder.iterdir()), jobs=1)
    assert len(survey.headers) >= 4 and len(survey.failed) >= 2
    for table in (survey.headers, survey.sizes, survey.failed):
        assert MARKER not in table.to_csv()
    assert MARKER not in caplog.text, "pydicom logs what it reads"


def test_messages_say_what_was_expected_and_quote_nothing(folder: Path):
    said = {}
    with IsolatedReader() as reader:
        for path in sorted(folder.iterdir()):
            for read in (load_radiograph, reader.load):
                try:
                    read(path)
                except DicomReadError as error:
                    said[path.name] = error
                    assert MARKER not in str(error) and error.reason in reasons.ALL
    assert "it starts like text" in str(said["text.dcm"])
    assert "expected OB, OW or UN" in str(said["type.dcm"])
    assert "unknown Photometric Interpretation; expected 1 with MONOCHROME1" in str(said["photometric.dcm"])
    assert "transfer syntax unknown" in str(said["syntax.dcm"])
    assert set(said) >= {"chunk.png", "codestream.dcm", "cut.dcm", "headless.dcm", "value.dcm"}


def test_same_version_same_code_and_empty_stays_empty(tmp_path: Path):
    versions = []
    for number, name in enumerate(("A", "A", "B", "")):
        path = write_dicom(tmp_path / f"{number}.dcm", chest(20, 20))
        ds = pydicom.dcmread(path)
        ds.file_meta.ImplementationVersionName = name
        ds.save_as(path)
        versions.append(load_radiograph(path).header["Version"])
    assert versions[0] == versions[1] != versions[2] and versions[3] == ""
    assert np.all([len(version) == 13 for version in versions[:3]])


def test_uids_come_out_only_where_they_are_asked_for(tmp_path: Path):
    (tmp_path / "in").mkdir()
    path = write_dicom(tmp_path / "in" / "one.dcm")
    (tmp_path / "in" / "two.png").write_bytes(b"no image")
    table = survey.uid_table(sorted((tmp_path / "in").iterdir()))
    ((image_id, code, uid),) = table.to_numpy().tolist()
    assert (image_id, uid) == ("one", str(pydicom.dcmread(path).SOPInstanceUID))
    assert read_header(path)["SOP Instance UID"] == code != uid
