"""Features: equal to their known definitions, clean headers, and no detection of a seen image."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import joblib
import mahotas
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from skimage import feature, filters, measure

from cxr import dicom, features, schema
from cxr.dicom import version_code
from cxr.errors import DataError
from cxr.features import texture
from cxr.features.header import age_years, first_number, spacing_mm
from cxr.features.pixel import shrink


def reference_features(pixels: np.ndarray) -> dict[str, float]:
    """The 39 definitions, by scikit-image, mahotas and scipy, one call after the other."""
    glcm = feature.graycomatrix(pixels, [1], [0], levels=256, symmetric=True, normed=True)
    real, imaginary = filters.gabor(pixels.astype(float), frequency=0.6, theta=0)
    lbp = feature.local_binary_pattern(pixels, P=8, R=1, method="uniform")
    values = [
        pixels.mean(),
        pixels.std(),
        np.median(pixels),
        *(
            feature.graycoprops(glcm, name)[0, 0]
            for name in ("contrast", "correlation", "energy", "homogeneity")
        ),
        real.mean(),
        real.std(),
        imaginary.mean(),
        imaginary.std(),
        *(np.histogram(lbp, bins=10, range=(0, 10))[0] / lbp.size),
        *mahotas.features.haralick(pixels).mean(axis=0),
        np.count_nonzero(filters.sobel(pixels) > texture.SOBEL_THRESHOLD),
        np.count_nonzero(feature.canny(pixels, sigma=1)),
        stats.skew(pixels, axis=None),
        stats.kurtosis(pixels, axis=None),
        measure.shannon_entropy(pixels),
    ]
    return dict(zip(schema.PIXEL_FEATURES, map(float, values), strict=True))


def smooth_image(seed: int, shape: tuple[int, int] = (180, 140)) -> np.ndarray:
    """Blobs of all sizes with a little noise, 0..255: about the texture of a radiograph."""
    draws = np.random.default_rng(seed)
    image = sum(
        scale * cv2.GaussianBlur(draws.normal(size=shape), (0, 0), scale) for scale in (1.0, 4.0, 16.0)
    )
    image = (image - image.min()) / (image.max() - image.min())
    return (255 * image).astype(np.uint8)


IMAGES = {
    "noise": np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8),
    "few grey levels": np.random.default_rng(1).integers(3, 7, (60, 80), dtype=np.uint8),
    "smooth": smooth_image(2),
    "smooth, landscape": smooth_image(3, (100, 170)),
    "square on black": np.pad(np.full((40, 60), 200, np.uint8), 30),
    "ramp": np.tile(np.arange(120, dtype=np.uint8) * 2, (50, 1)),
    "constant": np.full((20, 30), 77, np.uint8),
    "black": np.zeros((9, 9), np.uint8),
    "smallest": np.array([[0, 1, 2], [3, 4, 5], [9, 9, 255]], np.uint8),
}


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@pytest.mark.parametrize("name", IMAGES)
def test_pixel_features_equal_the_known_definitions(name: str) -> None:
    pixels = IMAGES[name]
    ours = features.pixel_features(pixels, working_size=None)
    assert list(ours) == schema.PIXEL_FEATURES
    expected = reference_features(pixels)
    for feature_name, value in expected.items():
        assert ours[feature_name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), feature_name


def test_pixel_features_equal_the_known_definitions_on_a_phantom(phantom_dir) -> None:
    for path in sorted((phantom_dir / "train").iterdir())[:3]:
        pixels = dicom.load_radiograph(path).pixels
        ours, expected = features.pixel_features(pixels, working_size=None), reference_features(pixels)
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9), path.name


@pytest.mark.real
def test_pixel_features_equal_the_known_definitions_on_real_radiographs(real_dir) -> None:
    paths = [*sorted((real_dir / "lungs" / "train").iterdir())[:2], real_dir / "dicom" / "966_fixed.dcm"]
    for path in paths:
        pixels = dicom.load_radiograph(path, longest_side=512).pixels
        ours, expected = features.pixel_features(pixels, working_size=None), reference_features(pixels)
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9), path.name


def test_haralick_equals_its_formulas_written_out() -> None:
    """Mahotas may vanish from a registry; the formulas of the paper do not."""
    pixels = IMAGES["few grey levels"]
    matrices = texture.cooccurrences(pixels)
    expected = []
    for p in matrices:
        i, j = np.indices(p.shape)
        marginal = p.sum(axis=1)
        sums = np.array([p[i + j == total].sum() for total in range(20)])
        differences = np.array([p[abs(i - j) == distance].sum() for distance in range(int(pixels.max()) + 1)])
        mean, k = (np.arange(256) * marginal).sum(), np.arange(len(differences))

        def entropy(q: np.ndarray) -> float:
            return -(q[q > 0] * np.log2(q[q > 0])).sum()

        variance = ((np.arange(256) - mean) ** 2 * marginal).sum()
        sum_average = (np.arange(20) * sums).sum()
        outer = np.outer(marginal, marginal)
        hxy1 = -(p[outer > 0] * np.log2(outer[outer > 0])).sum()
        expected.append(
            [
                (p**2).sum(),
                (k**2 * differences).sum(),
                ((i - mean) * (j - mean) * p).sum() / variance,
                variance,
                (p / (1 + (i - j) ** 2)).sum(),
                sum_average,
                ((np.arange(20) - sum_average) ** 2 * sums).sum(),
                entropy(sums),
                entropy(p),
                np.var(differences),
                entropy(differences),
                (entropy(p) - hxy1) / entropy(marginal),
                np.sqrt(1 - np.exp(-2 * (entropy(outer) - entropy(p)))),
            ]
        )
    assert texture.haralick(matrices, int(pixels.max())) == pytest.approx(np.mean(expected, axis=0))


def test_cooccurrences_worked_by_hand() -> None:
    matrices = texture.cooccurrences(np.array([[0, 1], [1, 1]], np.uint8))
    horizontal, falling, vertical, rising = (matrix[:2, :2].tolist() for matrix in matrices)
    assert horizontal == vertical == [[0, 0.25], [0.25, 0.5]]  # pairs 0-1 and 1-1, both ways
    assert falling == [[0, 0.5], [0.5, 0]]
    assert rising == [[0, 0], [0, 1]]


def test_pixel_features_leave_the_image_alone_and_work_on_a_smaller_copy() -> None:
    pixels = smooth_image(4, (300, 200))
    before = pixels.copy()
    small = features.pixel_features(pixels, working_size=150)
    assert np.array_equal(pixels, before)
    assert small == features.pixel_features(shrink(pixels, 150), working_size=None)
    assert shrink(pixels, 150).shape == (150, 100)
    assert shrink(pixels, 1000) is pixels, "never enlarged"
    assert features.pixel_features(pixels[:, ::2], working_size=None)["entropy"] > 0, "strided views work"


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 5)), np.zeros((5, 5, 3), np.uint8), np.zeros((2, 9), np.uint8)]
)
def test_pixel_features_refuse_what_is_no_grey_image(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected uint8 pixels \(H, W\), at least 3x3, got"):
        features.pixel_features(pixels)


def test_feature_table_does_not_depend_on_the_number_of_jobs() -> None:
    store = {f"image{place}": smooth_image(place, (60, 50)) for place in range(5)}
    ids = ["image3", "image0", "image4"]
    seen: list[tuple[int, int]] = []
    table = features.pixel_feature_table(
        store, ids, jobs=1, progress=lambda done, total: seen.append((done, total))
    )
    assert list(table.columns) == ["image_id", *schema.PIXEL_FEATURES]
    assert table["image_id"].tolist() == ids
    assert seen[-1] == (3, 3)
    with joblib.parallel_config(backend="threading"):  # no process to start
        pd.testing.assert_frame_equal(table, features.pixel_feature_table(store, ids, jobs=2))
    empty = features.pixel_feature_table(store, [])
    assert list(empty.columns) == list(table.columns) and len(empty) == 0


# -- header ------------------------------------------------------------------------------------------


def header_table(**columns: list[str]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    rows = {name: [""] * count for name in schema.HEADER_COLUMNS} | columns
    return pd.DataFrame({"image_id": [f"image{place}" for place in range(count)], **rows})


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("045Y", 45),
        ("018M", 1.5),
        ("014D", 14 / 365.25),
        ("052W", 52 * 7 / 365.25),
        ("61", 61),
        ("110Y", 110),
    ],
)
def test_age_in_years(text: str, years: float) -> None:
    assert age_years(text) == pytest.approx(years)


@pytest.mark.parametrize("text", ["", "Y", "000Y", "000D", "238Y", "111Y", "abc", "-5Y", "12X"])
def test_age_that_says_nothing_is_missing(text: str) -> None:
    assert np.isnan(age_years(text))


@pytest.mark.parametrize(
    ("text", "mm"),
    [
        ("[0.139, 0.139]", 0.139),
        ("['0.139000', '0.139000']", 0.139),
        ("0.175", 0.175),
        ("0.15\\0.15", 0.15),
        ("[1, 1]", np.nan),
        ("[1.0, 1.0]", np.nan),
        ("[0, 0]", np.nan),
        ("", np.nan),
    ],
)
def test_spacing(text: str, mm: float) -> None:
    assert spacing_mm(text) == pytest.approx(mm, nan_ok=True)


def test_first_number_of_several_windows() -> None:
    assert first_number("[2048.5, 100]") == 2048.5
    assert first_number("-1.5e3") == -1500
    assert np.isnan(first_number("none"))


def test_header_features_are_numbers_in_a_fixed_order() -> None:
    table = header_table(
        **{
            "File Name": ["a.dicom", "b.dicom"],
            "SOP Instance UID": ["1.2.3", "1.2.4"],
            "Transfer Syntax UID": ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.57"],
            "Patient's Sex": ["F", ""],
            "Patient's Age": ["045Y", "238Y"],
            "Window Center": ["2048", ""],
            "Version": ["PACS-B", "PACS-A"],
        }
    )
    ours = features.header_features(table)
    assert ours.columns[0] == "image_id"
    assert all(name.startswith("header_") for name in ours.columns[1:])
    assert all(dtype == np.float64 for dtype in ours.dtypes.iloc[1:])
    first, second = ours.iloc[0], ours.iloc[1]
    assert (first["header_age_years"], first["header_sex_female"], first["header_sex_missing"]) == (45, 1, 0)
    assert np.isnan(second["header_age_years"]) and np.isnan(second["header_window_center"])
    assert second["header_sex_missing"] == 1
    assert first["header_syntax_jpeg2000_lossless"] == 1
    syntaxes = [name for name in ours.columns if name.startswith("header_syntax")]
    assert second[syntaxes].sum() == 0, "a syntax that is not listed has no column, and is not missing"
    assert list(ours.columns[-3:]) == [
        "header_version_missing",
        *sorted(f"header_version_is_{version_code(name)}" for name in ("PACS-A", "PACS-B")),
    ]
    shuffled = features.header_features(table.iloc[::-1])
    assert list(shuffled.columns) == list(ours.columns)


def test_header_features_name_no_file_and_no_instance() -> None:
    """Another file name, another UID: the same features."""
    first = header_table(**{"File Name": ["a"], "SOP Instance UID": ["1.2"], "Version": ["x"]})
    second = header_table(**{"File Name": ["b"], "SOP Instance UID": ["9.9"], "Version": ["x"]})
    pd.testing.assert_frame_equal(features.header_features(first), features.header_features(second))


def test_header_versions_are_those_known_when_fitted() -> None:
    fitted = features.header_features(header_table(Version=["A [1]", "B", "B", ""]))
    versions = features.header_versions(fitted.columns)
    new = features.header_features(header_table(Version=["C", "A [1]", None]), versions=versions)
    assert list(new.columns) == list(fitted.columns)
    assert versions == sorted([version_code("A [1]"), version_code("B")])
    assert new[f"header_version_is_{version_code('B')}"].tolist() == [0, 0, 0]
    assert new[f"header_version_is_{version_code('A [1]')}"].tolist() == [0, 1, 0]
    coded = header_table(Version=[version_code("C"), version_code("A [1]"), None])
    pd.testing.assert_frame_equal(new, features.header_features(coded, versions=versions))
    assert new["header_version_missing"].tolist() == [0, 0, 1]


def test_header_features_say_which_column_is_missing() -> None:
    with pytest.raises(DataError, match='expected the column "Patient\'s Age"'):
        features.header_features(header_table(Version=["A"]).drop(columns="Patient's Age"))


@pytest.mark.real
def test_header_features_of_a_real_file(real_dir) -> None:
    row = dicom.read_header(real_dir / "dicom" / "RG1_J2KI.dcm")
    table = features.header_features(pd.DataFrame([{"image_id": "RG1", **row}]))
    assert table.loc[0, ["header_photometric_monochrome1", "header_bits_stored"]].tolist() == [1, 15]


# -- detector ----------------------------------------------------------------------------------------

SMALL = schema.ClassTable(("mass", "fluid", "No finding"))


def detections(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


def test_detector_features_worked_by_hand() -> None:
    table = detections(
        ("a", 0, 0.9, 0, 0, 10, 10),
        ("a", 0, 0.5, 0, 0, 10, 5),
        ("a", 0, 0.05, 0, 0, 20, 20),  # too faint to count
        ("a", 2, 1.0, 0, 0, 1, 1),  # the normal class has no features
        ("other", 1, 1.0, 0, 0, 5, 5),
    )
    sizes = pd.DataFrame({"image_id": ["a", "b"], "rows": [20, 20], "columns": [50, 50]})
    ours = features.detector_features(table, ["b", "a"], oof_image_ids=["a", "b"], sizes=sizes, classes=SMALL)
    assert list(ours.columns) == ["image_id", *features.detector_feature_names(SMALL)]
    assert ours["image_id"].tolist() == ["b", "a"]
    assert ours.iloc[0, 1:].tolist() == [0, 0, 0, 0, 0, 0]
    assert ours.iloc[1, 1:].tolist() == pytest.approx([0.9, 2, 0.15, 0, 0, 0])


def test_detector_features_refuse_an_image_the_detector_may_have_seen() -> None:
    sizes = pd.DataFrame({"image_id": ["a", "b"], "rows": 10, "columns": 10})
    with pytest.raises(DataError, match=r"out-of-fold detections only, got 1 images .* \(first: b\)"):
        features.detector_features(detections(), ["a", "b"], oof_image_ids=["a"], sizes=sizes)
    with pytest.raises(DataError, match="no original size for image b"):
        features.detector_features(detections(), ["b"], oof_image_ids=["b"], sizes=sizes[:1])


def test_detector_features_without_any_detection() -> None:
    sizes = pd.DataFrame({"image_id": ["a"], "rows": 10, "columns": 10})
    ours = features.detector_features(detections(), ["a"], oof_image_ids=["a"], sizes=sizes)
    assert ours.shape == (1, 1 + 3 * 14) and ours.iloc[0, 1:].sum() == 0
    assert len(features.detector_features(detections(), [], oof_image_ids=[], sizes=sizes)) == 0


def fold_files(folder: Path, folds: pd.DataFrame, *rows: tuple, detectors: tuple[int, ...]) -> Path:
    table = pd.DataFrame(rows, columns=[*schema.DETECTION_COLUMNS, "fold"])
    table.to_csv(folder / "found.csv", index=False)
    (folder / "found.json").write_text(json.dumps(features.fold_record(folds, detectors)))
    return folder / "found.csv"


FOLDS = pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 1, 1]})
SIZES = pd.DataFrame({"image_id": ["a", "b", "c", "t"], "rows": 20, "columns": 50})
SEEN = ("a", 0, 0.9, 0, 0, 10, 10, 0), ("c", 1, 0.4, 0, 0, 10, 10, 1)


def test_features_come_from_the_detector_that_left_the_image_out(tmp_path: Path) -> None:
    path = fold_files(tmp_path, FOLDS, *SEEN, detectors=(0, 1))
    by_fold = features.read_fold_detections(path, FOLDS.iloc[::-1])
    assert {fold: table["image_id"].tolist() for fold, table in by_fold.items()} == {0: ["a"], 1: ["c"]}
    ours = features.oof_detector_features(by_fold, FOLDS, sizes=SIZES[:3], classes=SMALL).set_index(
        "image_id"
    )
    assert ours["detector_score_0"].to_dict() == {"a": 0.9, "b": 0.0, "c": 0.0}
    assert ours["detector_score_1"].to_dict() == {"a": 0.0, "b": 0.0, "c": 0.4}
    unread = features.oof_detector_features(by_fold, FOLDS, sizes=SIZES[:2], classes=SMALL)
    assert sorted(unread["image_id"]) == ["a", "b"], "an unreadable image has no size and no features"


def test_detections_of_every_detector_on_an_image_nobody_trained_on(tmp_path: Path) -> None:
    rows = ("t", 0, 0.9, 0, 0, 10, 10, 0), ("t", 0, 0.5, 0, 0, 10, 10, 1)
    by_fold = features.read_fold_detections(fold_files(tmp_path, FOLDS, *rows, detectors=(0, 1)), FOLDS)
    assert [table["score"].tolist() for table in by_fold.values()] == [[0.9], [0.5]]
    silent = features.read_fold_detections(fold_files(tmp_path, FOLDS, *rows[:1], detectors=(0, 1)), FOLDS)
    assert len(silent[1]) == 0, "a detector that found nothing counts too"


def test_detections_that_are_not_out_of_fold_are_refused(tmp_path: Path) -> None:
    path = fold_files(tmp_path, FOLDS, *SEEN, detectors=(0, 1))
    with pytest.raises(DataError, match="trained by another table of folds"):
        features.read_fold_detections(path, FOLDS.assign(fold=[1, 0, 1]))
    fold_files(tmp_path, FOLDS, *SEEN, ("b", 0, 0.9, 0, 0, 10, 10, 0), detectors=(0, 1))
    with pytest.raises(
        DataError, match=r"row 4 \(image b\): expected a detector that left out fold 1, got .* fold 0"
    ):
        features.read_fold_detections(path, FOLDS)
    fold_files(tmp_path, FOLDS, SEEN[0], detectors=(0,))
    one = features.read_fold_detections(path, FOLDS)
    with pytest.raises(DataError, match="detections of all folds are needed, there are none of fold 1"):
        features.oof_detector_features(one, FOLDS, sizes=SIZES)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"found\.json: no such file; detections of an earlier run are"):
        features.read_fold_detections(path, FOLDS)


# -- tables ------------------------------------------------------------------------------------------


def test_join_keeps_the_first_order_and_leaves_gaps_missing() -> None:
    first = pd.DataFrame({"image_id": ["b", "a"], "entropy": [1.0, 2.0]})
    second = pd.DataFrame({"image_id": ["c", "b"], "header_rows": [5.0, 6.0]})
    joined = features.join_features(first, second)
    assert joined["image_id"].tolist() == ["b", "a", "c"]
    assert joined["header_rows"].tolist() == pytest.approx([6, np.nan, 5], nan_ok=True)
    assert features.feature_names(joined, ["header"]) == ["header_rows"]
    assert list(features.join_features().columns) == ["image_id"]


def test_join_refuses_doubles() -> None:
    table = pd.DataFrame({"image_id": ["a", "a"], "entropy": [1.0, 2.0]})
    with pytest.raises(DataError, match="image a has more than one row"):
        features.join_features(table)
    with pytest.raises(DataError, match="two tables hold the same feature, entropy"):
        features.join_features(table[:1], table[:1])
    with pytest.raises(DataError, match="expected a column image_id"):
        features.join_features(table.drop(columns="image_id"))


def test_groups_are_told_by_name() -> None:
    assert [features.feature_group(name) for name in ("entropy", "header_rows", "detector_score_0")] == [
        "pixel",
        "header",
        "detector",
    ]
    with pytest.raises(DataError, match="expected some of pixel, header, detector"):
        features.feature_names(pd.DataFrame({"image_id": []}), ["text"])
