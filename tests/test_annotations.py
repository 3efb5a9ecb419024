"""Reader tables: what is read, what is refused and how it is said, what is counted and fused."""

from __future__ import annotations

import gzip
from pathlib import Path

import ensemble_boxes
import numpy as np
import pandas as pd
import pytest

from cxr import annotations, boxes, schema
from cxr.errors import AnnotationError, DataError, ParameterError

TWO = schema.ClassTable(("Mass", "Fluid", "Normal"))
HEADER = ",".join(schema.ANNOTATION_COLUMNS)
GOOD = ["a,Mass,0,R1,10,20,30,50", "a,Fluid,1,R2,5,5,15,25.5", "b,Normal,2,R1,,,,"]


def write(folder: Path, rows: list[str], name: str = "train.csv", header: str = HEADER) -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def table(rows: list[tuple], classes: schema.ClassTable = TWO) -> pd.DataFrame:
    """Reader table from (image, reader, class, x_min, y_min, x_max, y_max) or (image, reader)."""
    nothing = (classes.normal_id, np.nan, np.nan, np.nan, np.nan)
    full = [row if len(row) > 2 else (*row, *nothing) for row in rows]
    made = pd.DataFrame(full, columns=["image_id", "rad_id", "class_id", *schema.BOX_COLUMNS])
    made["class_name"] = [classes.name(class_id) for class_id in made["class_id"]]
    return made[schema.ANNOTATION_COLUMNS]


# -- reading -----------------------------------------------------------------------------------------


def test_a_good_table_is_read_as_it_is(tmp_path):
    read = annotations.read_annotations(write(tmp_path, GOOD), classes=TWO)
    assert read.columns.tolist() == schema.ANNOTATION_COLUMNS and len(read) == 3
    assert read["class_id"].tolist() == [0, 1, 2] and read["class_id"].dtype == np.int64
    assert read["y_max"].iloc[1] == 25.5 and read["x_min"].dtype == np.float64
    assert read[schema.BOX_COLUMNS].iloc[2].isna().all()


def test_gzip_other_columns_and_number_like_ids_are_read(tmp_path):
    path = tmp_path / "train.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(HEADER + ",note\n007,Mass,0,R1,1,2,3,4,x\n1e5,Normal,2,R1,0,0,1,1,\n")
    read = annotations.read_annotations(path, classes=TWO)
    assert read["image_id"].tolist() == ["007", "1e5"]
    assert read.columns.tolist() == schema.ANNOTATION_COLUMNS
    assert read[schema.BOX_COLUMNS].iloc[1].isna().all()  # the one-pixel box of a normal row is no box


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c,Mass,0,R1,530,20,411,50", r"x_max 411 is not greater than x_min 530"),
        ("c,Mass,0,R1,10,20,30,20", r"y_max 20 is not greater than y_min 20"),
        ("c,Mass,0,R1,10,,30,50", r"expected a box for a finding, got '10' '' '30' '50'"),
        ("c,Mass,0,R1,10,NaN,30,50", r"expected a box for a finding"),
        ("c,Mass,0,R1,10,2o,30,50", r"expected a number as y_min, got '2o'"),
        ("c,Mass,0,R1,10,inf,30,50", r"expected a number as y_min, got 'inf'"),
        ("c,Mass,3,R1,10,20,30,50", r"expected a class_id of 0 to 2, got '3'"),
        ("c,Mass,0.5,R1,10,20,30,50", r"expected a class_id of 0 to 2, got '0.5'"),
        ("c,Mass,,R1,10,20,30,50", r"expected a class_id of 0 to 2, got ''"),
        ("c,Fluid,0,R1,10,20,30,50", r"expected class 0 to be named 'Mass', got 'Fluid'"),
        ("c,Mass,0,R1,-1,20,30,50", r"expected a box inside the image of 100x60 px, got -1 20 30 50"),
        ("c,Mass,0,R1,10,20,101,50", r"expected a box inside the image of 100x60 px, got 10 20 101 50"),
        ("c,Normal,2,R1,10,20,30,50", r"expected no box in a normal row, got 10 20 30 50"),
        ("b,Mass,0,R1,10,20,30,50", r"row 3 \(image b\): expected no normal row by a reader who found some"),
        ("a,Mass,0,R1,10,20,30,50", r"expected rows that differ, got one that was there before"),
        ("b,Normal,2,R1,,,,", r"expected rows that differ"),
        ("c,Mass,0,,10,20,30,50", r"expected rad_id, got nothing"),
        (",Mass,0,R1,10,20,30,50", r"row 4 \(image \?\): expected image_id, got nothing"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_image(tmp_path, row, message):
    sizes = pd.DataFrame({"image_id": ["c"], "rows": [60], "columns": [100]})
    path = write(tmp_path, [*GOOD, row])
    with pytest.raises(AnnotationError, match=message) as caught:
        annotations.read_annotations(path, classes=TWO, image_sizes=sizes)
    assert str(caught.value).startswith("train.csv row ")
    kept = annotations.read_annotations(path, classes=TWO, image_sizes=sizes, on_problem="drop")
    assert len(kept) == 3


def test_the_same_box_twice_by_two_readers_is_no_problem(tmp_path):
    path = write(tmp_path, [*GOOD, "a,Mass,0,R3,10,20,30,50"])
    assert len(annotations.read_annotations(path, classes=TWO)) == 4


def test_readers_may_disagree_whether_there_is_anything(tmp_path):
    path = write(tmp_path, [*GOOD, "b,Mass,0,R2,10,20,30,50"])
    fused = annotations.fuse_readers(annotations.read_annotations(path, classes=TWO), classes=TWO)
    of_b = fused[fused["image_id"] == "b"]
    assert of_b[["class_id", "n_readers", "agreement"]].to_numpy().tolist() == [[0, 1, 0.5]]


def test_all_problems_are_listed_and_can_be_dropped(tmp_path):
    path = write(tmp_path, [*GOOD, "c,Mass,9,R1,x,2,3,4", "c,Mass,0,R1,9,9,3,4"])
    raw = annotations.read_table(path)
    found = annotations.problems(raw, classes=TWO)
    assert found.columns.tolist() == ["row", "image_id", "kind", "problem"]
    assert found["row"].tolist() == [4, 4, 5, 5]
    assert sorted(found["kind"]) == ["class_id", "inverted", "inverted", "number"]
    kept = annotations.drop_problems(raw, found)
    assert len(kept) == 3 and annotations.problems(kept, classes=TWO).empty
    with pytest.raises(AnnotationError, match=r"\(3 more problems follow\)"):
        annotations.read_annotations(path, classes=TWO)


def test_problems_of_a_typed_table(tmp_path):
    read = annotations.read_annotations(write(tmp_path, GOOD), classes=TWO)
    before = read.copy()
    assert annotations.problems(read, classes=TWO).empty
    pd.testing.assert_frame_equal(read, before)
    assert annotations.problems(read.iloc[:0], classes=TWO).empty


def test_a_missing_column_names_the_nearest(tmp_path):
    path = write(tmp_path, ["a,Mass,0,R1,1,2,3,4"], header=HEADER.replace("rad_id", "radid"))
    with pytest.raises(
        AnnotationError, match=r"train.csv: expected a column 'rad_id', the nearest is 'radid'"
    ):
        annotations.read_annotations(path, classes=TWO)


@pytest.mark.parametrize(("content", "message"), [("", "empty file"), (HEADER + "\n", "header alone")])
def test_an_empty_table_is_refused(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message):
        annotations.read_annotations(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train.csv: expected a table .* found no such file"):
        annotations.read_annotations(tmp_path / "train.csv")
    broken = tmp_path / "train.csv.gz"
    broken.write_bytes(b"no gzip at all")
    with pytest.raises(DataError, match=r"train.csv.gz: expected a readable CSV table"):
        annotations.read_annotations(broken)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(DataError, match=r"binary.csv"):
        annotations.read_annotations(binary)
    with pytest.raises(ParameterError, match="'raise' or 'drop', got 'skip'"):
        annotations.read_annotations(write(tmp_path, GOOD), classes=TWO, on_problem="skip")
    with pytest.raises(AnnotationError, match="at least one good row"):
        path = write(tmp_path, ["a,Mass,0,R1,9,9,3,4"], name="bad.csv")
        annotations.read_annotations(path, classes=TWO, on_problem="drop")


# -- classes -----------------------------------------------------------------------------------------


def test_classes_come_from_the_folder_or_are_vinbigdata(tmp_path):
    assert annotations.read_classes(tmp_path) is schema.VINBIGDATA
    (tmp_path / "classes.csv").write_text("class_id,class_name\n0,Mass\n1,Fluid\n2,Normal\n")
    assert annotations.read_classes(tmp_path) == TWO
    with pytest.raises(DataError, match="expected a data folder, found none"):
        annotations.read_classes(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,Mass\n2,Normal", "row 2: expected class_id 1, got '2'"),
        ("0,Mass\nx,Normal", "row 2: expected class_id 1, got 'x'"),
        ("0,Mass\n1,Mass", "got 'Mass' twice"),
        ("0,\n1,Normal", "row 1: expected a class_name, got none"),
        ("0,Normal", "a finding and the normal class"),
    ],
)
def test_a_bad_class_table_is_refused(tmp_path, rows, message):
    (tmp_path / "classes.csv").write_text(f"class_id,class_name\n{rows}\n")
    with pytest.raises(AnnotationError, match=message):
        annotations.read_classes(tmp_path)


# -- tables ------------------------------------------------------------------------------------------

FOUR_IMAGES = [
    ("a", "R1", 0, 0, 0, 10, 10), ("a", "R2", 0, 0, 0, 10, 9), ("a", "R10", 0, 0, 0, 10, 8),
    ("a", "R1", 0, 50, 50, 60, 60), ("a", "R2", 1, 20, 20, 30, 30), ("a", "R10", 1, 21, 20, 31, 30),
    ("b", "R1"), ("b", "R2"), ("b", "R10"),
    ("c", "R1", 1, 0, 0, 4, 4), ("c", "R2", 1, 8, 8, 12, 12), ("c", "R10", 0, 8, 8, 12, 12),
    ("d", "R1"), ("d", "R2"), ("d", "R11"),
]  # fmt: skip


def test_counts_by_hand():
    made = table(FOUR_IMAGES)
    by_class = annotations.class_counts(made, classes=TWO)
    assert by_class.columns.tolist() == ["class_id", "class_name", "rows", "images", "readers"]
    assert by_class[["rows", "images", "readers"]].to_numpy().tolist() == [[5, 2, 3], [4, 2, 3], [6, 2, 4]]
    by_reader = annotations.reader_counts(made, classes=TWO)
    assert by_reader["rad_id"].tolist() == ["R1", "R2", "R10", "R11"]
    assert by_reader[["images", "normal", "abnormal", "boxes"]].to_numpy().tolist() == [
        [4, 2, 2, 3],
        [4, 2, 2, 3],
        [3, 1, 2, 3],
        [1, 1, 0, 0],
    ]
    assert by_reader["boxes_per_abnormal"].iloc[0] == 1.5 and np.isnan(
        by_reader["boxes_per_abnormal"].iloc[3]
    )


def test_positives_by_reader_count_by_hand():
    counts = annotations.positives_by_reader_count(table(FOUR_IMAGES), classes=TWO)
    assert counts.columns.tolist() == ["class_id", "class_name", "positives", "by_1", "by_2", "by_3"]
    assert counts[["positives", "by_1", "by_2", "by_3"]].to_numpy().tolist() == [[2, 1, 0, 1], [2, 0, 2, 0]]


def test_groups_by_reader():
    groups = annotations.reader_groups(table(FOUR_IMAGES), readers=("R10",), classes=TWO)
    assert groups["image_id"].tolist() == ["a", "b", "c", "d"]
    assert groups["group"].tolist() == ["dominant", "dominant", "dominant", "other"]
    assert groups["abnormal"].tolist() == [True, False, True, False]


def test_agreement_by_hand():
    agreement = annotations.reader_agreement(table(FOUR_IMAGES), classes=TWO).set_index(["rad_a", "rad_b"])
    pair = agreement.loc[("R1", "R2")]
    # Of four images both call the same two abnormal; of the pairs (a,0) (a,1) (c,1) two are common.
    assert pair["images"] == 4 and pair["kappa"] == 1.0
    assert pair["class_jaccard"] == pytest.approx(2 / 3)
    assert (pair["boxes_a"], pair["boxes_b"], pair["matched"]) == (3, 3, 1)
    assert pair["box_f1"] == pytest.approx(2 / 6)
    assert agreement.loc[("R2", "R10"), "matched"] == 2
    assert np.isnan(agreement.loc[("R1", "R11"), "kappa"]) and ("R10", "R11") not in agreement.index


def test_matching_of_readers_is_one_to_one():
    made = table([("a", "R1", 0, 0, 0, 10, 10), ("a", "R2", 0, 0, 0, 10, 10), ("a", "R2", 0, 0, 0, 10, 9)])
    assert annotations.reader_agreement(made, classes=TWO)["matched"].tolist() == [1]


def test_geometry_by_hand():
    made = table([("a", "R1", 0, 10, 20, 30, 60), ("b", "R1"), ("z", "R1", 1, 0, 0, 5, 5)])
    sizes = pd.DataFrame({"image_id": ["a", "b"], "rows": [100, 9], "columns": [200, 9]})
    shape = annotations.box_geometry(made, sizes, classes=TWO)
    assert shape.index.tolist() == [0, 2]
    first = shape.iloc[0]
    assert (first["width_px"], first["height_px"], first["area_px"], first["aspect"]) == (20, 40, 800, 0.5)
    assert (first["width"], first["height"], first["area"]) == (0.1, 0.4, 0.04)
    assert (first["x_centre"], first["y_centre"]) == (0.1, 0.4)
    assert shape.iloc[1][["width", "area", "x_centre"]].isna().all() and shape.iloc[1]["width_px"] == 5
    assert annotations.box_geometry(made, classes=TWO)["area"].isna().all()


def test_heat_maps_equal_the_plain_loop():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 60, (40, 2))
    corners = np.hstack([low, low + rng.uniform(3, 40, (40, 2))])
    made = table([("a", "R1", int(k % 2), *corner) for k, corner in enumerate(corners)])
    sizes = pd.DataFrame({"image_id": ["a"], "rows": [100], "columns": [100]})
    maps = annotations.heat_maps(made, sizes, bins=10, classes=TWO)
    expected = np.zeros((2, 10, 10))
    for k, (x0, y0, x1, y1) in enumerate(corners):
        for row in range(10):
            for column in range(10):
                touches = x0 < 10 * column + 10 and x1 > 10 * column and y0 < 10 * row + 10 and y1 > 10 * row
                expected[k % 2, row, column] += touches / 20
    np.testing.assert_allclose(maps, expected)


def test_tables_of_one_reader_without_normal_images():
    made = table([("a", "R1", 0, 0, 0, 10, 10), ("b", "R1", 0, 0, 0, 10, 10)])
    assert annotations.reader_agreement(made, classes=TWO).empty
    assert annotations.positives_by_reader_count(made, classes=TWO)["by_1"].tolist() == [2, 0]
    assert annotations.reader_groups(made, classes=TWO)["group"].tolist() == ["other", "other"]
    assert annotations.class_counts(made, classes=TWO)["images"].tolist() == [2, 0, 0]
    fused = annotations.fuse_readers(made, classes=TWO)
    assert fused["agreement"].tolist() == [1.0, 1.0]


def test_tables_of_no_rows_and_of_normal_rows_alone():
    for made in (table([]), table([("a", "R1"), ("a", "R2")])):
        assert annotations.class_counts(made, classes=TWO)["rows"].tolist() == [0, 0, len(made)]
        assert len(annotations.reader_counts(made, classes=TWO)) == made["rad_id"].nunique()
        assert annotations.positives_by_reader_count(made, classes=TWO)["positives"].tolist() == [0, 0]
        assert len(annotations.reader_agreement(made, classes=TWO)) == min(len(made), 1)
        assert len(annotations.reader_groups(made, classes=TWO)) == made["image_id"].nunique()
        assert annotations.box_geometry(made, classes=TWO).empty
        sizes = pd.DataFrame({"image_id": ["a"], "rows": [9], "columns": [9]})
        assert annotations.heat_maps(made, sizes, classes=TWO).sum() == 0
        for method in boxes.FUSION_METHODS:
            fused = annotations.fuse_readers(made, method=method, classes=TWO)
            assert fused.columns.tolist() == schema.CONSENSUS_COLUMNS
            assert len(fused) == made["image_id"].nunique()


# -- fusion ------------------------------------------------------------------------------------------


def test_readers_fuse_to_the_mean_and_keep_how_many_they_were():
    fused = annotations.fuse_readers(table(FOUR_IMAGES), classes=TWO)
    assert fused.columns.tolist() == schema.CONSENSUS_COLUMNS
    assert fused["image_id"].tolist() == ["a", "a", "a", "b", "c", "c", "c", "d"]
    heart = fused.iloc[0]
    assert heart[schema.BOX_COLUMNS].tolist() == [0, 0, 10, 9]
    assert heart["n_readers"] == 3 and heart["agreement"] == 1.0 and heart["class_name"] == "Mass"
    assert fused["n_readers"].tolist() == [3, 1, 2, 3, 1, 1, 1, 3]
    assert fused.iloc[2]["agreement"] == pytest.approx(2 / 3)
    normal = fused[fused["image_id"] == "b"].iloc[0]
    assert normal["class_id"] == 2 and normal[schema.BOX_COLUMNS].isna().all() and normal["agreement"] == 1


@pytest.mark.parametrize(
    ("method", "boxes_of_a", "readers"),
    [
        ("wbf", 3, [3, 1, 2]),
        ("nms", 3, [3, 1, 2]),
        ("soft-nms", 3, [3, 1, 2]),
        ("union", 6, [3, 3, 3, 1, 2, 2]),
        ("agreement", 5, [3, 3, 3, 2, 2]),
    ],
)
def test_every_method_by_hand(method, boxes_of_a, readers):
    fused = annotations.fuse_readers(table(FOUR_IMAGES), method=method, classes=TWO)
    of_a = fused[fused["image_id"] == "a"]
    assert len(of_a) == boxes_of_a and of_a["n_readers"].tolist() == readers


def test_an_image_that_loses_all_its_boxes_is_kept_as_normal():
    fused = annotations.fuse_readers(table(FOUR_IMAGES), method="agreement", classes=TWO)
    of_c = fused[fused["image_id"] == "c"]
    assert of_c["class_id"].tolist() == [2] and of_c["n_readers"].tolist() == [0]
    assert of_c["agreement"].tolist() == [0.0]


def test_fusion_does_not_depend_on_how_readers_are_mixed():
    made = table(FOUR_IMAGES)
    mixed = made.sort_values("rad_id", kind="stable")
    for method in boxes.FUSION_METHODS:
        one = annotations.fuse_readers(made, method=method, classes=TWO)
        other = annotations.fuse_readers(mixed, method=method, classes=TWO)
        pd.testing.assert_frame_equal(
            one.sort_values(schema.CONSENSUS_COLUMNS, ignore_index=True),
            other.sort_values(schema.CONSENSUS_COLUMNS, ignore_index=True),
        )


def test_fusion_of_readers_equals_ensemble_boxes():
    rng = np.random.default_rng(6)
    rows = []
    for reader in ("R1", "R2", "R3"):
        for image in range(30):
            for _ in range(rng.integers(1, 4)):
                x, y = rng.uniform(0, 500, 2)
                width, height = rng.uniform(200, 500, 2)
                rows.append((f"i{image}", reader, int(rng.integers(2)), x, y, x + width, y + height))
    made = table(rows)
    ours = annotations.fuse_readers(made, classes=TWO)
    for image, of_image in made.groupby("image_id"):
        lists = [part for _, part in of_image.groupby("rad_id")]
        unit = [part[schema.BOX_COLUMNS].to_numpy() / 1000 for part in lists]
        # Scores that tell the order ours visits in; so close to one that the means are the same.
        order = np.arange(len(of_image)) * 1e-9
        scores = np.split(1 + order, np.cumsum([len(part) for part in lists])[:-1])
        theirs = ensemble_boxes.weighted_boxes_fusion(
            unit, scores, [part["class_id"].to_numpy() for part in lists], iou_thr=0.4, allows_overflow=True
        )
        mine = ours[ours["image_id"] == image]
        sides = (
            np.column_stack([mine["class_id"], mine[schema.BOX_COLUMNS] / 1000]),
            np.column_stack([theirs[2], theirs[0]]),
        )
        # Whole rows, in one order: a swapped coordinate must not find its twin in another box.
        np.testing.assert_allclose(*(rows[np.lexsort(rows.round(4).T[::-1])] for rows in sides), atol=1e-6)


def test_unknown_ways_of_fusing_are_refused():
    with pytest.raises(ParameterError, match=r"expected a method of wbf, nms, .* got 'mean'"):
        annotations.fuse_readers(table(FOUR_IMAGES), method="mean", classes=TWO)


def test_pairs_equal_the_overlap_table():
    rng = np.random.default_rng(3)
    low = rng.uniform(0, 50, (30, 2))
    corners = np.hstack([low, low + rng.uniform(5, 40, (30, 2))])
    labels, images = rng.integers(0, 2, 30), rng.integers(0, 3, 30)
    left, right, overlap = annotations.overlapping_pairs(corners, labels, images)
    expected = boxes.iou(corners, corners)
    apart = (labels[:, None] != labels[None]) | (images[:, None] != images[None]) | np.eye(30, dtype=bool)
    expected[apart] = 0
    found = np.zeros((30, 30))
    found[left, right] = overlap
    np.testing.assert_allclose(found, expected)


# -- real tables -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vinbigdata(real_dir) -> pd.DataFrame:
    return annotations.read_annotations(real_dir / "vinbigdata" / "train.csv.gz")


@pytest.mark.real
def test_the_published_counts_are_found(vinbigdata):
    assert len(vinbigdata) == 67_914 and vinbigdata["image_id"].nunique() == 15_000
    assert vinbigdata["x_min"].notna().sum() == 36_096
    assert (vinbigdata.groupby("image_id")["rad_id"].nunique() == 3).all()
    counts = annotations.class_counts(vinbigdata)
    assert counts["rows"].tolist() == [
        7162, 279, 960, 5427, 556, 1000, 1247, 2483, 2580, 2203, 2476, 4842, 226, 4655, 31818,
    ]  # fmt: skip
    assert counts["images"].tolist() == [
        3067, 186, 452, 2300, 353, 386, 613, 1322, 826, 1134, 1032, 1981, 96, 1617, 10606,
    ]  # fmt: skip
    readers = annotations.reader_counts(vinbigdata)
    assert readers["rad_id"].tolist() == [f"R{number}" for number in range(1, 18)]
    # The facts say that R1..R7 never saw an abnormal image; one of R2's is.
    assert readers["abnormal"].tolist()[:7] == [0, 1, 0, 0, 0, 0, 0]

    positives = annotations.positives_by_reader_count(vinbigdata)
    total = positives["positives"].sum()
    assert total == 15_365
    assert round(positives["by_1"].sum() / total, 3) == 0.426
    assert round(positives["by_3"].sum() / total, 3) == 0.343

    groups = annotations.reader_groups(vinbigdata)
    by_group = groups[groups["abnormal"]]["group"].value_counts()
    assert by_group.to_dict() == {"dominant": 4146, "other": 248}

    shape = annotations.box_geometry(vinbigdata)
    assert (shape[["width_px", "height_px"]].min(axis=1) < 10).sum() == 3


@pytest.mark.real
def test_the_published_numbers_of_fused_boxes_are_found(vinbigdata):
    for method, expected in (("wbf", 22_719), ("nms", 22_781), ("union", 36_096)):
        fused = annotations.fuse_readers(vinbigdata, method=method)
        assert fused["x_min"].notna().sum() == expected
        assert fused["image_id"].nunique() == 15_000
        assert (fused["class_id"] == 14).sum() == 10_606


@pytest.mark.real
def test_a_data_set_of_one_reader_and_no_normal_image(real_dir):
    folder = real_dir / "lungs"
    classes = annotations.read_classes(folder)
    assert classes.finding_names == ("Right Lung", "Left Lung")
    read = annotations.read_annotations(folder / "train.csv", classes=classes)
    fused = annotations.fuse_readers(read, classes=classes)
    assert len(fused) == len(read) == 520 and (fused["agreement"] == 1).all()
    assert annotations.reader_agreement(read, classes=classes).empty
