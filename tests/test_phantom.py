"""The synthetic data set: its files, its tables, what is drawn where, and what the headers give away."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from cxr.errors import DataError, DiskError, ParameterError
from cxr.phantom import headers, make_phantom, picture, plan, readers, writer
from cxr.phantom.canvas import Canvas, ellipse, ribbon, round_profile, spline
from cxr.schema import ANNOTATION_COLUMNS, BOX_COLUMNS, DOMINANT_READERS, VINBIGDATA

SIZE = (320, 264)


def file_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file, by its path within the folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# -- the folder -----------------------------------------------------------------------------------------


def test_folder_has_the_competitions_layout(phantom_dir: Path) -> None:
    names = {p.name for p in phantom_dir.iterdir()}
    assert names == {
        "train",
        "test",
        "train.csv",
        "test_truth.csv",
        "sample_submission.csv",
        "phantom.json",
    }
    train = [p for p in (phantom_dir / "train").iterdir()]
    assert len(train) == 16 and all(p.suffix == ".dicom" and len(p.stem) == 32 for p in train)
    assert all(int(p.stem, 16) >= 0 for p in train)

    sample = pd.read_csv(phantom_dir / "sample_submission.csv")
    assert list(sample.columns) == ["image_id", "PredictionString"]
    assert set(sample["PredictionString"]) == {"14 1 0 0 1 1"}
    assert set(sample["image_id"]) == {p.stem for p in (phantom_dir / "test").iterdir()}


def test_tables_follow_the_published_schema(phantom_dir: Path) -> None:
    train = pd.read_csv(phantom_dir / "train.csv")
    assert list(train.columns) == ANNOTATION_COLUMNS
    assert (train.groupby("image_id")["rad_id"].nunique() == 3).all()
    assert train["class_name"].tolist() == [VINBIGDATA.name(c) for c in train["class_id"]]
    normal = train["class_id"] == VINBIGDATA.normal_id
    assert train.loc[normal, BOX_COLUMNS].isna().all(axis=None)
    assert train.loc[~normal, BOX_COLUMNS].notna().all(axis=None)
    mixed = normal.groupby(train["image_id"]).nunique()
    assert (mixed == 1).all(), "an image is normal to all three readers or to none"
    assert (train.loc[normal].groupby("image_id").size() == 3).all()
    # Shuffled: the rows of one image do not stand together.
    assert train["image_id"].ne(train["image_id"].shift()).sum() > train["image_id"].nunique()

    truth = pd.read_csv(phantom_dir / "test_truth.csv")
    assert list(truth.columns) == ANNOTATION_COLUMNS
    assert set(truth["image_id"]) == {p.stem for p in (phantom_dir / "test").iterdir()}


def test_boxes_lie_in_their_images(phantom_dir: Path) -> None:
    for split, table in (("train", "train.csv"), ("test", "test_truth.csv")):
        rows = pd.read_csv(phantom_dir / table).dropna(subset=BOX_COLUMNS)
        for row in rows.itertuples():
            ds = pydicom.dcmread(
                phantom_dir / split / f"{row.image_id}.dicom", specific_tags=["Rows", "Columns"]
            )
            assert 0 <= row.x_min < row.x_max <= ds.Columns
            assert 0 <= row.y_min < row.y_max <= ds.Rows


def test_same_arguments_give_the_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    alone, many = (
        make_phantom(tmp_path / f"{jobs}", images=4, test_images=2, size=256, seed=3, jobs=jobs)
        for jobs in (1, 2)
    )
    assert file_hashes(alone) == file_hashes(many)


def test_an_image_does_not_depend_on_how_many_there_are(phantom_dir: Path, tmp_path: Path) -> None:
    few = make_phantom(tmp_path / "few", images=3, test_images=0, size=256, seed=3, jobs=1)
    many = file_hashes(phantom_dir)
    for name, digest in file_hashes(few).items():
        if name.startswith("train/"):
            assert many[name] == digest
    assert pd.read_csv(few / "test_truth.csv").empty
    assert pd.read_csv(few / "sample_submission.csv").empty


def test_another_seed_gives_other_images(phantom_dir: Path, tmp_path: Path) -> None:
    other = make_phantom(tmp_path / "other", images=2, test_images=1, size=256, seed=4, jobs=1)
    assert not set(file_hashes(other)) & {n for n in file_hashes(phantom_dir) if n.endswith(".dicom")}


def test_a_finished_phantom_is_kept_and_another_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    calls = []
    make_phantom(folder, images=1, test_images=1, size=256, jobs=1, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert make_phantom(folder, images=1, test_images=1, size=256, jobs=1) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(DataError, match="seed 0 instead of 5"):
        make_phantom(folder, images=1, test_images=1, size=256, seed=5, jobs=1)


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and not a phantom"):
        make_phantom(folder, images=1, size=256, jobs=1)
    (folder / "phantom.json").write_text("{")
    with pytest.raises(DataError, match="not empty and not a phantom"):
        make_phantom(folder, images=1, size=256, jobs=1)
    assert (folder / "thesis.txt").read_text() == "mine"
    with pytest.raises(DataError, match="is a file"):
        make_phantom(folder / "thesis.txt", images=1, size=256, jobs=1)


def test_nothing_is_left_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cxr.phantom.dataset.write_dicom", fail)
    with pytest.raises(DiskError, match="data: the disk is full; free some space"):
        make_phantom(tmp_path / "data", images=1, size=256, jobs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"test_images": -1}, "test_images must not be negative"),
        ({"size": 255}, "size must be between 256 and 3072 pixels, got 255"),
        ({"size": 3073}, "size must be between 256 and 3072"),
        ({"seed": -1}, "seed must not be negative"),
        ({"abnormal_fraction": 1.5}, "abnormal_fraction must be between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_phantom(tmp_path / "data", **arguments)
    assert list(tmp_path.iterdir()) == []


# -- the files ------------------------------------------------------------------------------------------


def make_header(**changes: object) -> headers.Header:
    """A plain header with some facts changed."""
    facts = {
        "transfer_syntax": headers.IMPLICIT_LE,
        "sop_class": headers.DX_STORAGE,
        "version": "ARCHIVE 1",
        "inverted": False,
        "bits_stored": 12,
        "sex": "O",
        "age": "041Y",
        "pixel_spacing": 0.143,
        "window": (2048, 4096),
    }
    return headers.Header(**{**facts, **changes})


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(
    "syntax", [headers.IMPLICIT_LE, headers.EXPLICIT_LE, headers.JPEG2000_LOSSLESS], ids=["ile", "ele", "j2k"]
)
def test_pixels_come_back_bit_for_bit(tmp_path: Path, syntax: str, bits: int) -> None:
    stored = np.random.default_rng(bits).integers(0, 1 << bits, (65, 43)).astype(np.uint16)
    stored[0, :2] = 0, (1 << bits) - 1
    path = tmp_path / "a.dicom"
    writer.write_dicom(path, stored, make_header(transfer_syntax=syntax, bits_stored=bits), identity="a")
    ds = pydicom.dcmread(path)
    np.testing.assert_array_equal(ds.pixel_array, stored)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (16, bits, bits - 1, 0)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    if syntax == headers.JPEG2000_LOSSLESS:
        frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
        precision = frame[frame.index(b"\xff\x51") + 40]  # Ssiz of the SIZ marker, ISO 15444-1 A.5.1
        assert precision + 1 == bits
    assert [p.name for p in tmp_path.iterdir()] == ["a.dicom"]


def test_odd_header_values_are_written_as_they_are(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    stored = np.zeros((8, 8), np.uint16)
    path = tmp_path / "a.dicom"
    for age in ("Y", "", "000D", "238Y"):
        writer.write_dicom(
            path, stored, make_header(age=age, version="", sex="", window=(1, 1)), identity="a"
        )
        ds = pydicom.dcmread(path)
        assert (ds.get("PatientAge") or "") == age
        assert "ImplementationVersionName" in ds.file_meta and not ds.file_meta.ImplementationVersionName
        assert (ds.WindowCenter, ds.WindowWidth) == (1, 1)
    writer.write_dicom(path, stored, make_header(age=None, pixel_spacing=None, window=None), identity="a")
    ds = pydicom.dcmread(path)
    assert not {"PatientAge", "PixelSpacing", "WindowCenter", "WindowWidth"} & set(ds.dir())
    assert "PHANTOM" in str(ds.PatientName) and ds.PatientID.startswith("PHANTOM-")
    assert not recwarn.list


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
def test_dcmtk_opens_every_file(phantom_dir: Path, tmp_path: Path) -> None:
    for path in sorted(phantom_dir.glob("*/*.dicom")):
        dumped = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=False)
        assert dumped.returncode == 0 and "PixelData" in dumped.stdout
        assert not dumped.stderr.strip()
        if pydicom.dcmread(path).file_meta.TransferSyntaxUID != headers.JPEG2000_LOSSLESS:
            # dcmtk has no JPEG 2000 decoder.
            subprocess.run(["dcmj2pnm", str(path), str(tmp_path / "a.pnm")], check=True, capture_output=True)


# -- the headers ----------------------------------------------------------------------------------------


def header_table(leak: bool, images: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    """Header facts as a model would take them, and which images are abnormal."""
    rng = np.random.default_rng(5)
    abnormal = rng.random(images) < 0.3
    drawn = [headers.draw_header(bool(a), leak=leak, female=rng.random() < 0.5, rng=rng) for a in abnormal]
    return pd.DataFrame([vars(h) for h in drawn]), abnormal


def header_auc(table: pd.DataFrame, abnormal: np.ndarray) -> float:
    """AUC of boosted trees that see header facts only, cross-validated."""
    features = pd.DataFrame({c: pd.factorize(table[c].astype(str))[0] for c in table.columns})
    model = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, random_state=0)
    return roc_auc_score(
        abnormal, cross_val_predict(model, features, abnormal, method="predict_proba", cv=4)[:, 1]
    )


def test_headers_leak_as_published() -> None:
    table, abnormal = header_table(leak=True)
    assert header_auc(table, abnormal) > 0.9
    assert not abnormal[table["version"] == ""].any()
    assert abnormal[table["transfer_syntax"] == headers.EXPLICIT_LE].mean() > 0.97
    assert abnormal[table["pixel_spacing"].isin([0.125, 0.175])].mean() == 0
    assert abnormal[table["pixel_spacing"] == 0.139].mean() < 0.03


def test_headers_do_not_leak_when_told_not_to() -> None:
    assert header_auc(*header_table(leak=False)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("leak", [True, False])
def test_header_facts_have_their_published_shares(leak: bool) -> None:
    table, _ = header_table(leak)
    share = {c: table[c].value_counts(normalize=True, dropna=False).to_dict() for c in table.columns}
    expected = {
        ("transfer_syntax", headers.IMPLICIT_LE): 0.60,
        ("transfer_syntax", headers.JPEG2000_LOSSLESS): 0.35,
        ("transfer_syntax", headers.EXPLICIT_LE): 0.05,
        ("inverted", True): 0.176,
        ("bits_stored", 12): 0.707,
        ("bits_stored", 14): 0.231,
        ("bits_stored", 16): 0.057,
        ("sop_class", headers.DX_STORAGE): 0.59,
        ("sex", "O"): 0.343,
        ("sex", ""): 0.167,
        ("age", "000Y"): 0.056,
        ("age", "Y"): 0.047,
    }
    for (column, value), wanted in expected.items():
        assert share[column].get(value, 0) == pytest.approx(wanted, abs=0.04), (column, value)
    assert table["age"].isna().mean() == pytest.approx(0.635, abs=0.04)
    assert table["pixel_spacing"].isna().mean() == pytest.approx(0.143, abs=0.03)
    assert table["window"].isna().mean() == pytest.approx(0.028, abs=0.012)
    width = pd.Series(
        [w[1] / 2**b if w else np.nan for w, b in zip(table["window"], table["bits_stored"], strict=True)]
    )
    assert 0.01 < ((width > 1.2) | (width < 0.01)).mean() < 0.06


def test_a_given_sex_agrees_with_the_body() -> None:
    rng = np.random.default_rng(0)
    for female, wrong in ((True, "M"), (False, "F")):
        drawn = {headers.draw_header(False, leak=False, female=female, rng=rng).sex for _ in range(200)}
        assert wrong not in drawn and len(drawn) == 3


# -- the picture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_id", VINBIGDATA.finding_ids)
def test_the_picture_changes_where_the_box_is(class_id: int) -> None:
    seed = (71, 0, class_id)
    sick = picture.draw(SIZE, [(class_id, 0.9)], female=False, seed=seed)
    well = picture.draw(SIZE, [], female=False, seed=seed)
    assert len(sick.boxes) == 1 and sick.boxes[0] and well.boxes == []
    change = np.abs(sick.density - well.density)
    inside = np.zeros(SIZE, bool)
    for x_min, y_min, x_max, y_max in sick.boxes[0]:
        assert 0 <= x_min < x_max <= SIZE[1] and 0 <= y_min < y_max <= SIZE[0]
        inside[int(y_min) : int(y_max), int(x_min) : int(x_max)] = True
    assert inside.mean() < 0.4
    assert change[inside].mean() > 3 * change[~inside].mean()


def test_a_stronger_finding_changes_more() -> None:
    well = picture.draw(SIZE, [], female=True, seed=(4,))
    faint, plain = (
        np.abs(picture.draw(SIZE, [(8, s)], female=True, seed=(4,)).density - well.density).sum()
        for s in (0.2, 0.9)
    )
    assert plain > 2 * faint > 0


def test_the_chest_looks_like_one() -> None:
    """Dark lungs on both sides of a white middle, black air beside the neck, white abdomen."""
    for k in range(4):
        density = picture.draw(SIZE, [], female=bool(k % 2), seed=(k,)).density
        assert density.shape == SIZE and density.dtype == np.float32
        assert density.min() >= 0 and density.max() <= 1
        rows, columns = SIZE
        band = density[int(0.3 * rows) : int(0.5 * rows)].mean(axis=0)
        right, middle, left = (band[int(a * columns) : int(b * columns)].mean() for a, b in _BANDS)
        assert middle > right + 0.2 and middle > left + 0.2
        assert density[int(0.92 * rows) :, int(0.3 * columns) : int(0.7 * columns)].mean() > right + 0.2


_BANDS = ((0.2, 0.35), (0.46, 0.54), (0.68, 0.8))


def test_a_patient_is_the_same_at_any_size() -> None:
    small, large = (
        picture.draw(size, [(4, 0.9)], female=False, seed=(3,)) for size in ((256, 208), (1024, 832))
    )
    np.testing.assert_allclose(
        np.asarray(small.boxes[0]) / small.density.shape[0],
        np.asarray(large.boxes[0]) / large.density.shape[0],
        atol=0.02,
    )


@pytest.mark.slow
def test_the_largest_size(tmp_path: Path) -> None:
    folder = make_phantom(
        tmp_path / "data", images=1, test_images=0, size=3072, abnormal_fraction=1.0, jobs=1
    )
    ds = pydicom.dcmread(next((folder / "train").iterdir()))
    assert 2400 <= max(ds.Rows, ds.Columns) <= 3072
    assert ds.pixel_array.std() > 0


def test_canvas_geometry_by_hand() -> None:
    canvas = Canvas((100, 80), scale=10.0, origin=(40.0, 20.0), tilt=0.0)
    np.testing.assert_allclose(canvas.to_pixels(np.array([[1.0, 2.0]])), [[50.0, 40.0]])
    x, y = canvas.centimetres
    assert x[0, 0] == pytest.approx(-3.95) and y[0, 0] == pytest.approx(-1.95)
    square = np.array([(-1.0, 0.0), (1.0, 0.0), (1.0, 2.0), (-1.0, 2.0)])
    # cv2 counts the outline in: half a pixel more on each side.
    assert canvas.fill([square]).sum() == pytest.approx(21**2, rel=0.05)
    assert canvas.solid([square + 100], 1.0).max() == 0, "what lies beside the film leaves no trace"
    assert np.ptp(spline(square, closed=True)[:, 0]) >= 2
    band = ribbon(np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)]), 0.5)
    np.testing.assert_allclose(np.ptp(band, axis=0), [2.0, 0.5])
    np.testing.assert_allclose(np.ptp(ellipse(0, 0, 2, 1), axis=0), [4, 2], rtol=0.01)
    np.testing.assert_allclose(round_profile(np.array([0, 1, 5], np.float32), 2.0), [0, 0.75**0.5, 1])


# -- the plan and the readers ---------------------------------------------------------------------------


def test_abnormal_share_is_kept() -> None:
    for fraction in (0.0, 0.3, 1.0):
        sick = [
            plan.plan_patient(i, split=0, seed=1, abnormal_fraction=fraction).abnormal for i in range(200)
        ]
        assert sum(sick) == pytest.approx(200 * fraction, abs=1)


def test_every_class_is_in_every_block_of_abnormal_images() -> None:
    shown = np.zeros(len(VINBIGDATA.finding_ids))
    together = 0
    for i in range(plan.BLOCK):
        patient = plan.plan_patient(i, split=0, seed=2, abnormal_fraction=1.0)
        definite = {c for c, strength, _ in patient.findings if strength > 0.5}
        shown[list(definite)] += 1
        together += {0, 3} <= definite
    assert (shown >= 2).all()
    assert shown[0] == shown.max()
    assert together >= 3, "a wide aorta and a big heart keep company"


def read_many(images: int) -> tuple[list, list]:
    """Readers of many images, and the marks of those that are abnormal."""
    normal, abnormal = [], []
    for i in range(images):
        rng = np.random.default_rng([9, i])
        patient = plan.plan_patient(i, split=0, seed=0, abnormal_fraction=0.5)
        names = readers.choose_readers(patient.abnormal, rng)
        found = [
            readers.Finding(c, (100.0 * k, 50.0, 100.0 * k + 80, 140.0), visibility)
            for k, (c, _, visibility) in enumerate(patient.findings)
        ]
        marks = readers.read_image(found, names, (2000, 2000), rng)
        if patient.abnormal:
            abnormal.append((names, marks))
        else:
            assert marks == []
            normal.append(names)
    return normal, abnormal


def test_readers_keep_their_published_habits() -> None:
    normal, abnormal = read_many(1200)
    assert {r for names in normal for r in names} == {f"R{i}" for i in range(1, 18)}
    assert all(len(set(names)) == 3 for names in normal)
    dominant = [set(names) == set(DOMINANT_READERS) for names, _ in abnormal]
    assert np.mean(dominant) == pytest.approx(4146 / 4394, abs=0.04)
    assert not {f"R{i}" for i in range(1, 8)} & {r for names, _ in abnormal for r in names}

    agreeing = []
    for names, marks in abnormal:
        assert {m.reader for m in marks} == set(names), "each reader of an abnormal image marks something"
        by_class = defaultdict(set)
        for mark in marks:
            by_class[mark.class_id].add(mark.reader)
        agreeing += [len(who) for who in by_class.values()]
    assert np.mean(np.array(agreeing) == 1) == pytest.approx(0.426, abs=0.06)
    assert np.mean(np.array(agreeing) == 3) == pytest.approx(0.343, abs=0.06)


def test_consensus_is_what_a_majority_marked() -> None:
    found = [
        readers.Finding(8, (10.0, 10.0, 30.0, 30.0), 0.9),
        readers.Finding(4, (50.0, 50.0, 90.0, 90.0), 0.9),
    ]
    marks = [
        readers.Mark(0, "R1", 8, (10.0, 10.0, 30.0, 30.0)),
        readers.Mark(0, "R2", 9, (12.0, 10.0, 30.0, 30.0)),
        readers.Mark(0, "R3", 8, (14.0, 10.0, 30.0, 33.0)),
        readers.Mark(1, "R1", 4, (50.0, 50.0, 90.0, 90.0)),
        readers.Mark(1, "R2", 6, (50.0, 50.0, 90.0, 90.0)),
    ]
    (agreed,) = readers.consensus(found, marks, 5)
    assert agreed.class_id == 8 and agreed.box == (12.0, 10.0, 30.0, 31.0)
    assert readers.consensus([], [], 5) == []
    # Nobody agreed on anything: what most marked stays, under its true name when the names tie.
    (kept,) = readers.consensus(found, marks[3:], 5)
    assert kept.class_id == 4


def test_marks_stay_in_the_picture_and_never_vanish() -> None:
    rng = np.random.default_rng(0)
    edge = [readers.Finding(2, (0.0, 255.0, 2.0, 256.0), 1.0), readers.Finding(3, (0, 0, 208, 256), 1.0)]
    for _ in range(50):
        for mark in readers.read_image(edge, ["R8", "R9", "R10"], (256, 208), rng):
            x_min, y_min, x_max, y_max = mark.box
            assert 0 <= x_min <= x_max - 3 and x_max <= 208
            assert 0 <= y_min <= y_max - 3 and y_max <= 256
    assert readers.read_image([], ["R1"], (256, 208), rng) == []


def test_record_says_how_it_was_made(phantom_dir: Path) -> None:
    record = json.loads((phantom_dir / "phantom.json").read_text())
    assert record["images"] == 16 and record["size"] == 256 and record["header_leak"] is True


def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    dead = tmp_path / ".data.part-999999999"
    dead.mkdir()
    (dead / "half.dicom").write_bytes(b"half")
    alive = tmp_path / ".data.part-1"
    alive.mkdir()
    make_phantom(tmp_path / "data", images=1, test_images=0, size=256, jobs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".data.part-1", "data"]
