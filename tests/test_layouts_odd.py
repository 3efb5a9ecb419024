"""Data sets that are laid out oddly, damaged tables and documents, and the way out and back in."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from test_layouts import (
    BOXES,
    FORMS,
    SIZES,
    adopt,
    boxes_of,
    draw,
    lines,
    make_coco,
    make_nih,
    make_vindr,
    make_voc,
    normal_of,
    write_table,
)

from cxr import annotations, layouts, schema
from cxr.errors import AnnotationError, CxrError, DataError
from cxr.export import FORMATS, export_run
from cxr.preprocess import preprocess
from cxr.store import ImageStore

HEADER = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]


def nih_with_test_list(folder: Path, text: str) -> Path:
    source = make_nih(folder)
    (source / "test_list.txt").write_text(text)
    return source


def test_nih_s_own_test_list_holds_every_box_and_is_not_followed(tmp_path: Path):
    source = nih_with_test_list(tmp_path / "source", "a1.png\n007.png\n")
    adopted, table = adopt(source, tmp_path / "data")
    assert boxes_of(table) == sorted(BOXES) and normal_of(table) == ["c"]
    assert adopted.images == {"train": 3, "test": 0}
    assert "test_list.txt names every image that has a box" in lines(adopted, "took")


def test_a_test_list_of_nih_that_leaves_boxes_is_followed(tmp_path: Path):
    source = nih_with_test_list(tmp_path / "source", "007.png\n")
    adopted, table = adopt(source, tmp_path / "data")
    assert adopted.images == {"train": 2, "test": 1}
    assert set(table.image_id) == {"a1", "c"}


def test_a_class_with_boxes_is_not_the_normal_one_wherever_it_stands(tmp_path: Path):
    rows = [
        ("a1", "Erguss", "4", "R1", "1", "2", "30", "40"),
        ("007", "Herd", "9", "R1", "1", "2", "30", "40"),
    ]
    source = write_table(tmp_path / "source", rows)
    (source / "classes.csv").write_text("class_id,class_name\n4,Erguss\n9,Herd\n")
    adopted, table = adopt(source, tmp_path / "data")
    assert len(boxes_of(table)) == 2
    assert annotations.read_classes(tmp_path / "data").names == ("Erguss", "Herd", "No finding")
    assert "mended 2: class ids counted anew (4 -> 0, 9 -> 1)" in adopted.lines


def test_spellings_of_one_class_are_one_class(tmp_path: Path):
    header = [name for name in HEADER if name != "class_id"]
    rows = [
        ("a1", name, "R1", "1", "2", "30", "40")
        for name in ("Fracture", "fracture ", "FRAC TURE", "FRACTURE")
    ]
    adopted, table = adopt(write_table(tmp_path / "source", rows, header), tmp_path / "data")
    assert annotations.read_classes(tmp_path / "data").finding_names == ("FRAC TURE", "FRACTURE")
    assert set(table.class_name) == {"FRAC TURE", "FRACTURE"}
    assert "class names in other letters" in lines(adopted, "mended")


def test_spellings_are_one_class_in_documents_too(tmp_path: Path):
    source = make_coco(tmp_path / "source")
    path = source / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 30, "name": " MASS "})
    document["annotations"].append({"id": 9, "image_id": 6, "category_id": 30, "bbox": [1, 1, 5, 5]})
    path.write_text(json.dumps(document))
    _, table = adopt(source, tmp_path / "data")
    assert annotations.read_classes(tmp_path / "data").finding_names == ("Effusion", "Mass")
    assert ("007", "Mass", 1.0, 1.0, 6.0, 6.0) in boxes_of(table)


def one_image(folder: Path, document: Path, name: str) -> None:
    """A COCO document of one image with one box."""
    draw(folder / f"{name}.png")
    content = {
        "images": [{"id": 1, "file_name": f"{name}.png", "height": 120, "width": 100}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 1, "name": "Mass"}],
    }
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(json.dumps(content))


def test_coco_parts_are_told_by_folders_and_whole_words(tmp_path: Path):
    source = tmp_path / "source"
    for part in ("train", "valid", "test"):
        one_image(source / part, source / part / "_annotations.coco.json", f"scan_{part}")
    adopted, table = adopt(source, tmp_path / "data")
    assert adopted.images == {"train": 2, "test": 1}
    assert {name for name, *_ in boxes_of(table)} == {"scan_train", "scan_valid"}
    one_image(tmp_path / "other", tmp_path / "other" / "latest.json", "a")
    adopted, _ = adopt(tmp_path / "other", tmp_path / "more")
    assert adopted.images == {"train": 1, "test": 0}


def test_coco_parts_with_images_of_one_name_are_kept_apart(tmp_path: Path):
    source = tmp_path / "source"
    for part in ("train", "test"):
        one_image(source / part, source / part / "_annotations.coco.json", "scan")
    adopted, _ = adopt(source, tmp_path / "data")
    assert adopted.images == {"train": 1, "test": 1}


def test_a_class_without_any_box_is_asked_about(tmp_path: Path):
    header = [name for name in HEADER if name != "class_id"]
    rows = [("a1", "Fracture", "R1", "1", "2", "30", "40"), ("007", "Unauffaellig", "R1", "", "", "", "")]
    adopted, table = adopt(write_table(tmp_path / "source", rows, header), tmp_path / "data")
    assert annotations.read_classes(tmp_path / "data").names == ("Fracture", "No finding")
    assert "classes that never have a box; name one that means normal 'No finding'" in lines(
        adopted, "left out"
    )
    rows[1] = ("007", "Healthy", *rows[1][2:])
    _, table = adopt(write_table(tmp_path / "other", rows, header), tmp_path / "more")
    assert normal_of(table) == ["007"]


def test_boxes_as_shares_in_a_table(tmp_path: Path):
    rows = [
        ("a1", "Cardiomegaly", "3", "R1", "0.1", "0.25", "0.5", "1.0"),
        ("007", "No finding", "14", "R1", "0", "0", "1", "1"),
    ]
    adopted, table = adopt(write_table(tmp_path / "source", rows), tmp_path / "data")
    assert boxes_of(table) == [("a1", "Cardiomegaly", 10.0, 30.0, 50.0, 120.0)]
    assert "for shares of the image's sides" in lines(adopted, "took")


def test_excel_s_own_first_line_is_passed_over(tmp_path: Path):
    source = write_table(tmp_path / "source", sep=";")
    path = source / "train.csv"
    path.write_text("sep=;\n" + path.read_text())
    _, table = adopt(source, tmp_path / "data")
    assert len(table) == 3


def test_voc_sizes_the_other_way_round(tmp_path: Path):
    source = make_voc(tmp_path / "source")
    for path in (source / "Annotations").iterdir():
        text = (
            path.read_text()
            .replace("height>", "tall>")
            .replace("width>", "height>")
            .replace("tall>", "width>")
        )
        path.write_text(text)
    adopted, table = adopt(source, tmp_path / "data")
    assert boxes_of(table) == sorted(BOXES)
    assert "mended 2: sizes with width and height the other way round" in lines(adopted, "mended")


def test_the_test_truth_of_vindr_alone_is_enough_to_score_against(tmp_path: Path):
    source = make_vindr(tmp_path / "source" / "1.0.0").parent
    for path in source.rglob("*train*"):
        if path.is_file():
            path.unlink()
    for path in source.rglob("t?.png"):
        path.unlink()
    adopted = layouts.adopt(source, tmp_path / "data", jobs=1)
    assert adopted.images == {"train": 0, "test": 2}
    assert "the test part alone, to score against" in lines(adopted, "took")
    assert not (tmp_path / "data" / "train.csv").exists()
    classes = annotations.read_classes(tmp_path / "data")
    truth = annotations.read_test_truth(tmp_path / "data", classes=classes)
    assert truth is not None and boxes_of(truth) == [("u1", "Cardiomegaly", 10.0, 60.0, 90.0, 110.0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: (p / "train.zip").write_bytes(b"PK\x03\x04"),
            r"left out 1: archives, not unpacked \(train.zip\)",
        ),
        (
            lambda p: (p / "train.csv").write_text("image_id,class_name\na,Mass\n"),
            "train.csv has no column of a box",
        ),
        (
            lambda p: (p / "train.csv").write_text("a,b\n1,2\n"),
            "train.csv has no column of an image or a box",
        ),
    ],
)
def test_what_a_folder_of_no_form_holds_is_said(make, message: str, tmp_path: Path):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        adopt(tmp_path, tmp_path.with_name("data"))


def test_missing_columns_are_named(tmp_path: Path):
    source = make_vindr(tmp_path / "vindr")
    path = source / "annotations" / "image_labels_train.csv"
    path.write_text(path.read_text().replace("image_id", "study"))
    with pytest.raises(
        AnnotationError, match=r"image_labels_train.csv: expected a column image_id, got study, rad_id"
    ):
        adopt(source, tmp_path / "data")
    path = source / "annotations" / "annotations_train.csv"
    path.write_text(path.read_text().replace("image_id", "study"))
    with pytest.raises(
        AnnotationError, match=r"annotations_train.csv: expected a column image_id, got study"
    ):
        adopt(source, tmp_path / "data")
    nih = make_nih(tmp_path / "nih")
    (nih / "Data_Entry_2017.csv").write_text("Image Index\nc.png\n")
    with pytest.raises(
        AnnotationError, match=r"Data_Entry_2017.csv: expected image and findings, got 1 columns"
    ):
        adopt(nih, tmp_path / "data")


# -- damage ------------------------------------------------------------------------------------------


def damaged(text: str, rng: random.Random) -> str:
    """A table or a document with something gone, doubled, swapped or of another kind."""
    what = rng.randrange(5)
    if what == 0:
        return text[: rng.randrange(len(text))]
    if what == 1:
        place = rng.randrange(len(text))
        return (
            text[:place]
            + rng.choice(['"', "\n", ",", "{", "]", "<", "\x00", "é", "null"])
            + text[place + 1 :]
        )
    rows = text.split("\n")
    if what == 2:
        return "\n".join(rng.sample(rows, len(rows)))
    if what == 3:
        return "\n".join(row.rpartition(",")[0] for row in rows)
    words = [word for word in ("1", "image", "id", "x", "bbox", "name", "7", ":", "train") if word in text]
    return (
        text.replace(rng.choice(words), rng.choice(["", "[]", "-1e400", "nan", '{"a": 1}', "0"]))
        if words
        else ""
    )


@pytest.mark.parametrize("form", [*FORMS, "vindr"])
def test_damaged_tables_and_documents_are_read_or_named(form: str, tmp_path: Path):
    source = (FORMS | {"vindr": make_vindr})[form](tmp_path / "source")
    texts = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix in (".csv", ".json", ".xml", ".txt", ".yaml")
    ]
    rng, read = random.Random(form), 0
    for number in range(60):
        path = rng.choice(texts)
        whole = path.read_text()
        path.write_text(damaged(whole, rng))
        try:
            adopt(source, tmp_path / "data" / str(number))
            read += 1
        except CxrError as error:
            assert "\n" not in str(error)
        path.write_text(whole)
    assert read > 0
    assert read < 60 or form == "voc", "a damaged document of many is left out"


# -- out and back in ---------------------------------------------------------------------------------


def as_run(data: Path, root: Path) -> Path:
    """What an export reads of a run: the store, the readers' boxes and the fused ones."""
    preprocess({"train": data / "train"}, root / schema.IMAGES_DIR, image_size=256, jobs=1)
    classes = annotations.read_classes(data)
    table = annotations.read_annotations(data / "train.csv", classes=classes)
    fused = annotations.fuse_readers(table, classes=classes)
    tables = {schema.TRAIN_FULL_CSV: table, schema.TRAIN_CSV: fused, schema.VAL_CSV: fused.iloc[:0]}
    for name, rows in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(root / name, index=False)
    return root


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", FORMATS)
def test_boxes_that_went_in_come_out_and_in_again(form: str, format: str, tmp_path: Path):
    data = tmp_path / "data"
    _, before = adopt(FORMS[form](tmp_path / "source"), data)
    run, out = as_run(data, tmp_path / "run"), tmp_path / "out"
    export_run(run, out, format=format, classes=annotations.read_classes(data), data_dir=data)
    adopted, after = adopt(out, tmp_path / "again")
    assert not lines(adopted, "left out")
    assert normal_of(after) == normal_of(before)
    one, other = boxes_of(before), boxes_of(after)
    assert [row[:2] for row in one] == [row[:2] for row in other]
    store = ImageStore(run / schema.IMAGES_DIR)
    for (name, _, *box), (_, _, *again) in zip(one, other, strict=True):
        rows, columns = (a / b for a, b in zip(store[name].shape, SIZES[name], strict=True))
        # Exports write thousandths of a pixel, YOLO's shares have six digits.
        np.testing.assert_allclose(again, np.array(box) * [columns, rows, columns, rows], rtol=0, atol=1e-3)
