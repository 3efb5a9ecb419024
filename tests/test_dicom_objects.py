"""Structured Reports and presentation states: read by other libraries, and nobody's name anywhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from cxr import export, schema
from cxr.errors import DataError, ParameterError
from cxr.export.dicom_objects import CODES, concept_of, write_objects
from cxr.export.dicom_objects import report as structured
from cxr.schema import VINBIGDATA

ALGORITHM = export.Algorithm(("ab" * 32,), ("score_floor=0.05",))
MARKER = "ZQMARKER"
BOXES = pd.DataFrame(
    [("one", 3, 0.8123456, 10.5, 20.25, 200.0, 160.0), ("one", 8, 0.2, 0.0, 0.0, 60.0, 70.0)],
    columns=schema.DETECTION_COLUMNS,
)


@pytest.fixture
def image(phantom_dir: Path, tmp_path: Path) -> Path:
    """A file of the phantom, as uncompressed MONOCHROME1, with a marker in text that identifies."""
    pytest.importorskip("highdicom")
    dataset = pydicom.dcmread(sorted((phantom_dir / "test").iterdir())[0])
    dataset.decompress() if dataset.file_meta.TransferSyntaxUID.is_compressed else None
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PatientName, dataset.PatientID = f"{MARKER}^Name", f"{MARKER}1"
    dataset.AccessionNumber, dataset.StudyDescription = f"{MARKER}2", f"{MARKER} study"
    dataset.PatientAge = "061Y"
    dataset.InstitutionName, dataset.ImageComments = f"{MARKER} institution", f"{MARKER} comment"
    path = tmp_path / "in" / "one.dcm"
    path.parent.mkdir()
    dataset.save_as(path)
    return path


def made(image: Path, out: Path, kind: str, boxes: pd.DataFrame = BOXES) -> Path:
    (path,) = write_objects(image, boxes, out, "one", kinds=[kind], algorithm=ALGORITHM, classes=VINBIGDATA)
    return path


def test_report_says_where_what_how_sure_and_who(image, tmp_path):
    import highdicom as hd

    path = made(image, tmp_path / "out", "dicom-sr")
    assert path.name == "one.sr.dcm"
    report, source = hd.sr.srread(path), pydicom.dcmread(image)
    assert report.StudyInstanceUID == source.StudyInstanceUID
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert (report.PatientName, report.PatientAge) == (source.PatientName, source.PatientAge)
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert [uids[2] for uids in report.get_evidence()] == [source.SOPInstanceUID]
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 2
    for group, row in zip(groups, BOXES.itertuples(), strict=True):
        polyline = group.roi.value
        assert polyline[0].tolist() == polyline[-1].tolist(), "closed"
        hull = [*polyline.min(axis=0), *polyline.max(axis=0)]
        assert hull == pytest.approx([row.x_min, row.y_min, row.x_max, row.y_max])
        (score,) = group.get_measurements()
        assert score.value == pytest.approx(100 * row.score, abs=1e-3) and score.unit.value == "%"
        (reference,) = group.roi.ContentSequence
        assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert [g.finding_type.value for g in groups] == ["8186001", "NODULE_MASS"]
    content = path.read_bytes()
    for text in (f"detector_sha256={ALGORITHM.detectors[0]}", "score_floor=0.05", "Algorithm Version"):
        assert text.encode() in content
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99CXR"


def test_presentation_state_draws_the_boxes(image, tmp_path):
    path = made(image, tmp_path / "out", "gsps")
    state, source = pydicom.dcmread(path), pydicom.dcmread(image)
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert len(annotation.GraphicObjectSequence) == len(annotation.TextObjectSequence) == 2
    for drawn, row in zip(annotation.GraphicObjectSequence, BOXES.itertuples(), strict=True):
        points = np.reshape(drawn.GraphicData, (-1, 2))
        assert drawn.GraphicAnnotationUnits == "PIXEL" and drawn.GraphicType == "POLYLINE"
        assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx(
            [row.x_min, row.y_min, row.x_max, row.y_max]
        )
    assert annotation.TextObjectSequence[0].UnformattedTextValue == "Cardiomegaly 0.81"
    assert state.PresentationLUTShape == "INVERSE", "the image is MONOCHROME1"
    shown = state.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner
    assert list(shown) == [source.Columns, source.Rows]


def test_the_same_work_gets_the_same_uids(image, tmp_path):
    def uids(out: str, kind: str, boxes: pd.DataFrame, algorithm: export.Algorithm) -> tuple[str, str]:
        (path,) = write_objects(
            image, boxes, tmp_path / out, "one", kinds=[kind], algorithm=algorithm, classes=VINBIGDATA
        )
        read = pydicom.dcmread(path)
        return str(read.SOPInstanceUID), str(read.SeriesInstanceUID)

    other = export.Algorithm(("cd" * 32,), ALGORITHM.parameters)
    for kind in ("dicom-sr", "gsps"):
        first = uids("a", kind, BOXES, ALGORITHM)
        assert uids("b", kind, BOXES, ALGORITHM) == first
        fewer = uids("c", kind, BOXES[:1], ALGORITHM)
        assert fewer[0] != first[0] and fewer[1] == first[1], "another answer, the same series"
        assert not set(uids("d", kind, BOXES, other)) & set(first)
    assert uids("a", "gsps", BOXES, ALGORITHM) != uids("a", "dicom-sr", BOXES, ALGORITHM)


def test_nothing_found_is_said_and_is_no_finding(image, tmp_path):
    import highdicom as hd

    report = hd.sr.srread(made(image, tmp_path, "dicom-sr", BOXES[:0]))
    assert not report.content.get_planar_roi_measurement_groups()
    (group,) = report.content.get_image_measurement_groups()
    assert group.finding_type.value == "NOTHING_FOUND"
    assert "GraphicAnnotationSequence" not in pydicom.dcmread(made(image, tmp_path, "gsps", BOXES[:0]))


@pytest.mark.skipif(not shutil.which("dsrdump"), reason="needs dcmtk")
def test_dcmtk_reads_them(image, tmp_path):
    """An implementation in another language: every item of the tree is valid, both files parse."""
    report = made(image, tmp_path, "dicom-sr")
    tree = subprocess.run(["dsrdump", "+Pl", report], capture_output=True, text=True, check=True)
    assert "E:" not in tree.stderr, tree.stderr
    for words in (
        "Imaging Measurement Report",
        "Cardiomegaly",
        "POLYLINE,10.5/20.25",
        "Certainty of Finding",
    ):
        assert words in tree.stdout
    for path in (report, made(image, tmp_path, "gsps")):
        dump = subprocess.run(["dcmdump", path], capture_output=True, text=True, check=True)
        assert not dump.stderr.strip(), dump.stderr


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
def test_they_follow_the_standard(image, tmp_path):
    for kind in ("dicom-sr", "gsps"):
        for boxes in (BOXES, BOXES[:0]):
            checked = subprocess.run(
                ["dciodvfy", made(image, tmp_path, kind, boxes)], capture_output=True, text=True, check=False
            )
            errors = [line for line in (checked.stdout + checked.stderr).splitlines() if "Error" in line]
            assert not errors


def test_images_that_are_odd(image, tmp_path):
    """As de-identified files are: no study, no series, a sex and a date that no object may have."""
    dataset = pydicom.dcmread(image)
    del dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID, dataset.StudyDate
    dataset.PatientSex, dataset.PatientBirthDate = "X", ""
    odd = image.with_name("odd.dcm")
    dataset.save_as(odd)
    for kind in ("dicom-sr", "gsps"):
        read = pydicom.dcmread(made(odd, tmp_path, kind))
        assert read.PatientSex == "" and read.StudyInstanceUID.startswith("2.25.")
    del dataset.SOPInstanceUID, dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.save_as(odd, enforce_file_format=False)
    with pytest.raises(DataError, match="no valid SOPInstanceUID"):
        made(odd, tmp_path, "dicom-sr")


def test_nobody_s_name_but_in_objects_for_the_archive(image, tmp_path):
    cv2.imwrite(str(image.with_name("two.png")), np.zeros((50, 40), np.uint8))
    image.with_name("three.dcm").write_bytes(image.read_bytes()[:200])
    files = {"one": image, "two": image.with_name("two.png"), "three": image.with_name("three.dcm")}
    lines = found(
        {k: files[k] for k in ("one", "two")}, tmp_path / "out", "coco", "dicom-sr", "gsps"
    ).finish()
    assert lines[0] == "2 COCO results of 2 images"
    assert "2 DICOM objects" in lines[1] and "1 images are no DICOM files" in lines[1]
    with_marker = [
        p.name for p in (tmp_path / "out").rglob("*") if p.is_file() and MARKER.encode() in p.read_bytes()
    ]
    assert sorted(with_marker) == ["one.gsps.dcm", "one.sr.dcm"]
    for name in with_marker:
        text = (tmp_path / "out" / "dicom" / name).read_bytes()
        assert b"institution" not in text and b"comment" not in text, "no more than patient and study"
    with pytest.raises(DataError, match="of 2 images 1 are no DICOM files and 1 cannot be referred to"):
        found({k: files[k] for k in ("two", "three")}, tmp_path / "none", "dicom-sr").finish()


def found(files, out, *formats):
    writer = export.FoundWriter(out, formats=formats, algorithm=ALGORITHM, classes=VINBIGDATA)
    for image_id, path in files.items():
        writer.add(BOXES[BOXES[schema.IMAGE_ID] == image_id], {image_id: path})
    return writer


def test_objects_come_at_once_and_a_failure_of_one_loses_nothing(image, tmp_path, monkeypatch, caplog):
    other, third = image.with_name("other.dcm"), image.with_name("third.dcm")
    for path in (other, third):
        path.write_bytes(image.read_bytes())
    writer = found({"one": image}, tmp_path, "dicom-sr")
    assert [p.name for p in (tmp_path / "dicom").iterdir()] == ["one.sr.dcm"], "before the end"

    def broken(*arguments, **options):
        raise RuntimeError("a header that the library does not foresee")

    with monkeypatch.context() as patch:
        patch.setattr(structured, "structured_report", broken)
        writer.add(BOXES.iloc[:0], {"other": other})
    assert "other.dcm: no dicom-sr can refer to it (RuntimeError)" in caplog.text
    writer.add(BOXES.iloc[:0], {"third": third})
    assert writer.finish() == [f"2 DICOM objects in {tmp_path / 'dicom'}, 1 cannot be referred to"]


def test_coco_of_files_is_read_by_its_own_tools(image, tmp_path):
    from pycocotools.coco import COCO

    found({"one": image}, tmp_path, "coco").finish()
    results = COCO(tmp_path / "coco_images.json").loadRes(str(tmp_path / "coco_results.json"))
    (shown,) = results.loadImgs(results.getImgIds())
    header = pydicom.dcmread(image)
    assert (shown["file_name"], shown["height"], shown["width"]) == ("one.dcm", header.Rows, header.Columns)
    assert [a["bbox"] for a in results.loadAnns(results.getAnnIds(catIds=[3]))] == [
        [10.5, 20.25, 189.5, 139.75]
    ]


def test_codes():
    assert set(CODES) == set(VINBIGDATA.finding_names)
    for concept in (*CODES.values(), concept_of("My own; \\ class " * 9)):
        assert len(concept.value) <= 16 and 0 < len(concept.meaning) <= 64 and "\\" not in concept.meaning
    assert concept_of("Lung") == concept_of("Lung") != concept_of("lung")
    assert len({c.value for c in CODES.values()}) == len(CODES)


def test_says_which_package_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ParameterError, match=r"pip install 'cxr\[dicom-sr\]'"):
        export.check_formats(["gsps"])
    export.check_formats(["coco"])
    with pytest.raises(ParameterError, match="expected one of coco, dicom-sr, gsps"):
        export.check_formats(["sr"])
