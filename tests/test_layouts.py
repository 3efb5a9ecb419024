"""Other people's data: each form made by hand or by another reader's rules, adopted, and compared exactly."""

from __future__ import annotations

import csv
import gzip
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr import annotations, layouts, splits
from cxr.errors import AnnotationError, DataError, ParameterError
from cxr.layouts.names import VINDR_LOCAL, kaggle_name
from cxr.layouts.names import is_normal as says_normal
from cxr.preprocess import find_images, image_id_of
from cxr.schema import ANNOTATION_COLUMNS, BOX_COLUMNS, VINBIGDATA

HEIGHT, WIDTH = 120, 100
SIZES = {"a1": (120, 100), "007": (97, 131), "c": (64, 64), "d": (120, 100)}
BOXES = [("a1", "Mass", 10.5, 20.0, 40.25, 60.0), ("a1", "Effusion", 0.0, 3.0, 100.0, 120.0)]
BOXES += [("007", "Mass", 1.0, 2.0, 131.0, 97.0)]
NORMAL = ["c"]


def draw(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(size, 90, np.uint8))
    return path


def adopt(source: Path, out: Path, **options) -> tuple[layouts.Adopted, pd.DataFrame]:
    """Adopt, and read the table as strictly as the notebooks do."""
    adopted = layouts.adopt(source, out, jobs=1, **options)
    return adopted, annotations.read_annotations(out / "train.csv", classes=annotations.read_classes(out))


def boxes_of(table: pd.DataFrame) -> list[tuple]:
    rows = table.dropna(subset=BOX_COLUMNS)[["image_id", "class_name", *BOX_COLUMNS]]
    return sorted(rows.itertuples(index=False, name=None))


def normal_of(table: pd.DataFrame) -> list[str]:
    return sorted(table.loc[table.x_min.isna(), "image_id"])


def lines(adopted: layouts.Adopted, word: str) -> str:
    return "\n".join(line for line in adopted.lines if line.startswith(word))


# -- a folder of each form, made by its own rules ----------------------------------------------------


def make_coco(folder: Path) -> Path:
    images = []
    for number, (name, size) in enumerate(SIZES.items(), start=5):
        draw(folder / "train2017" / f"{name}.png", size)
        images.append({"id": number, "file_name": f"{name}.png", "height": size[0], "width": size[1]})
    numbers = {"Mass": 7, "Effusion": 2}
    entries = [
        {
            "id": i,
            "image_id": 5 + list(SIZES).index(name),
            "category_id": numbers[finding],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        for i, (name, finding, x0, y0, x1, y1) in enumerate(BOXES, start=1)
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    document = {"images": images[:3], "annotations": entries, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    return folder


def make_yolo(folder: Path) -> Path:
    (folder / "labels" / "train").mkdir(parents=True)
    for name, size in SIZES.items():
        if name != "d":
            draw(folder / "images" / "train" / f"{name}.png", size)
    for name, size in SIZES.items():
        rows = [(f, *box) for image, f, *box in BOXES if image == name]
        text = ""
        for finding, x0, y0, x1, y1 in rows:
            height, width = size
            shares = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
            text += f"{['Effusion', 'Mass'].index(finding)} " + " ".join(f"{v:.6f}" for v in shares) + "\n"
        if text:
            (folder / "labels" / "train" / f"{name}.txt").write_text(text)
    (folder / "data.yaml").write_text(
        "train: images/train\nval: images/train\nnames: [Effusion, Mass]\nnc: 2\n"
    )
    return folder


def make_voc(folder: Path, *, origin: int = 1) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    for name, size in SIZES.items():
        draw(folder / "JPEGImages" / f"{name}.jpg", size)
        if name == "d":
            continue
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
        sizes = ElementTree.SubElement(root, "size")
        ElementTree.SubElement(sizes, "height").text = str(size[0])
        ElementTree.SubElement(sizes, "width").text = str(size[1])
        for image, finding, x0, y0, x1, y1 in BOXES:
            if image == name:
                thing = ElementTree.SubElement(root, "object")
                ElementTree.SubElement(thing, "name").text = finding
                box = ElementTree.SubElement(thing, "bndbox")
                for tag, value in zip(
                    ("xmin", "ymin", "xmax", "ymax"), (x0 + origin, y0 + origin, x1, y1), strict=True
                ):
                    ElementTree.SubElement(box, tag).text = str(value)
        ElementTree.ElementTree(root).write(folder / "Annotations" / f"{name}.xml")
    return folder


def make_nih(folder: Path) -> Path:
    out = ['Image Index,Finding Label,"Bbox [x,y,w,h]",,,'.replace('"', "")]
    for number, (name, size) in enumerate(SIZES.items(), start=1):
        draw(folder / f"images_{number:03d}" / "images" / f"{name}.png", size)
    out += [f"{name}.png,{f},{x0},{y0},{x1 - x0},{y1 - y0},,," for name, f, x0, y0, x1, y1 in BOXES]
    (folder / "BBox_List_2017.csv").write_text("\n".join(out) + "\n")
    entry = (
        "Image Index,Finding Labels,Follow-up #\nc.png,No Finding,0\nd.png,Hernia,0\na1.png,Mass|Effusion,0\n"
    )
    (folder / "Data_Entry_2017.csv").write_text(entry)
    return folder


FORMS = {"coco": make_coco, "yolo": make_yolo, "voc": make_voc, "nih": make_nih}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_and_its_boxes_come_exactly(form: str, tmp_path: Path):
    source = FORMS[form](tmp_path / "source")
    adopted, table = adopt(source, tmp_path / "data")
    got = boxes_of(table)
    assert [row[:2] for row in got] == [row[:2] for row in sorted(BOXES)]
    allowed = 0.001 if form == "yolo" else 1e-9
    assert np.allclose([r[2:] for r in got], [r[2:] for r in sorted(BOXES)], rtol=0, atol=allowed)
    assert normal_of(table) == NORMAL
    assert set(table.rad_id) == {"R1"}
    assert "those of one reader, R1" in lines(adopted, "took")
    assert f"for {layouts.FORMS[form].title}" in adopted.lines[0]
    files = {image_id_of(path) for path in find_images(tmp_path / "data" / "train")}
    assert files == {"a1", "007", "c"}, "what nothing is known about stays outside"
    assert all(path.is_symlink() and path.exists() for path in (tmp_path / "data" / "train").iterdir())
    assert not (tmp_path / "data" / "test").exists() and not (tmp_path / "data" / "test_truth.csv").exists()


def test_coco_read_by_pycocotools_gives_the_same_boxes(tmp_path: Path):
    pycocotools = pytest.importorskip("pycocotools.coco")
    source = make_coco(tmp_path / "source")
    _, table = adopt(source, tmp_path / "data")
    coco = pycocotools.COCO(str(source / "annotations" / "instances_train2017.json"))
    expected = []
    for entry in coco.loadAnns(coco.getAnnIds()):
        x, y, width, height = entry["bbox"]
        name = coco.loadImgs(entry["image_id"])[0]["file_name"].removesuffix(".png")
        expected.append((name, coco.cats[entry["category_id"]]["name"], x, y, x + width, y + height))
    assert boxes_of(table) == sorted(expected)
    assert annotations.read_classes(tmp_path / "data").finding_names == ("Effusion", "Mass"), (
        "order of the ids"
    )


def test_coco_of_several_parts(tmp_path: Path):
    source = make_coco(tmp_path / "source")
    path = source / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    rest = {"images": [{"id": 1, "file_name": "a1.png", "height": 240, "width": 200}]}
    rest |= {"categories": document["categories"]}
    draw(source / "test2017" / "a1.png")
    entry = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [20, 40, 20, 40], "iscrowd": 0}
    (path.with_name("instances_test2017.json")).write_text(json.dumps(rest | {"annotations": [entry]}))
    adopted, table = adopt(source, tmp_path / "data")
    truth = annotations.read_annotations(
        tmp_path / "data" / "test_truth.csv", classes=annotations.read_classes(tmp_path / "data")
    )
    assert boxes_of(truth) == [("test2017_a1", "Mass", 10.0, 20.0, 20.0, 40.0)], "half the stated size"
    assert ("train2017_a1", "Mass", 10.5, 20.0, 40.25, 60.0) in boxes_of(table)
    assert "boxes scaled along" in lines(adopted, "mended")
    assert "ids that two files share" in lines(adopted, "mended")


def test_coco_without_annotations_asks_and_does_not_answer(tmp_path: Path):
    source = make_coco(tmp_path / "source")
    document = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    draw(source / "test2017" / "e.png")
    document = {"images": [{"id": 1, "file_name": "e.png"}], "categories": document["categories"]}
    (source / "annotations" / "image_info_test2017.json").write_text(json.dumps(document))
    adopted, _ = adopt(source, tmp_path / "data")
    assert adopted.images == {"train": 3, "test": 1}
    assert not (tmp_path / "data" / "test_truth.csv").exists()


def test_voc_pixels_count_from_one_unless_a_zero_says_otherwise(tmp_path: Path):
    adopted, _ = adopt(make_voc(tmp_path / "one"), tmp_path / "from_one")
    assert "counted from 1, the last pixel inside" in lines(adopted, "took")
    adopted, table = adopt(make_voc(tmp_path / "zero", origin=0), tmp_path / "from_zero")
    assert "counted from 0" in lines(adopted, "took")
    assert boxes_of(table) == sorted(BOXES)


def test_voc_image_sets_name_the_test_images(tmp_path: Path):
    source = make_voc(tmp_path / "source")
    (source / "ImageSets" / "Main").mkdir(parents=True)
    (source / "ImageSets" / "Main" / "test.txt").write_text("007\n")
    adopted, table = adopt(source, tmp_path / "data")
    assert adopted.images == {"train": 2, "test": 1}
    assert set(table.image_id) == {"a1", "c"}


def test_yolo_reads_what_other_tools_write(tmp_path: Path):
    source = make_yolo(tmp_path / "source")
    labels = source / "labels" / "train"
    (labels / "a1.txt").write_text(
        "1 0.5 0.5 0.2 0.1 0.93\n0 0.1 0.1 0.5 0.1 0.5 0.4 0.1 0.4\n5 0.5 0.5 0.1 0.1\n0 x 1 1 1\n"
    )
    (labels / "c.txt").write_text("\n")
    adopted, table = adopt(source, tmp_path / "data")
    found = [row[1:] for row in boxes_of(table) if row[0] == "a1"]
    assert np.allclose([row[1:] for row in found], [[10, 12, 50, 48], [40, 54, 60, 66]])
    assert [row[0] for row in found] == ["Effusion", "Mass"]
    assert "outlines" in lines(adopted, "mended") and "with a score" in lines(adopted, "mended")
    assert "class is not in data.yaml" in lines(adopted, "left out")
    assert "not a class and four numbers" in lines(adopted, "left out")


def test_nih_leaves_out_findings_without_a_box(tmp_path: Path):
    adopted, _ = adopt(make_nih(tmp_path / "source"), tmp_path / "data")
    assert "left out 1: images with a finding but no box (d.png)" in adopted.lines
    (tmp_path / "source" / "Data_Entry_2017.csv").unlink()
    adopted, table = adopt(tmp_path / "source", tmp_path / "again")
    assert normal_of(table) == []
    assert "for unknown, not for normal" in lines(adopted, "took")
    _, table = adopt(tmp_path / "source", tmp_path / "kaggle", classes="kaggle")
    assert set(table.class_name) == {"Nodule/Mass", "Pleural effusion"}


def test_rsna(tmp_path: Path):
    source = tmp_path / "source"
    for name in ("p1", "p2"):
        draw(source / "stage_2_train_images" / f"{name}.png")
    draw(source / "stage_2_test_images" / "p3.png")
    text = "patientId,x,y,width,height,Target\np1,10.0,20.0,30.0,40.0,1\np1,50,20,30,40,1\np2,,,,,0\n"
    (source / "stage_2_train_labels.csv").write_text(text)
    adopted, table = adopt(source, tmp_path / "data")
    assert boxes_of(table) == [
        ("p1", "Lung Opacity", 10.0, 20.0, 40.0, 60.0),
        ("p1", "Lung Opacity", 50.0, 20.0, 80.0, 60.0),
    ]
    assert normal_of(table) == ["p2"]
    assert adopted.images == {"train": 2, "test": 1}
    _, table = adopt(source, tmp_path / "kaggle", classes="kaggle")
    assert set(table.class_id) == {7, 14}


def make_vindr(folder: Path) -> Path:
    for split, names in {"train": ["t1", "t2"], "test": ["u1", "u2"]}.items():
        for name in names:
            draw(folder / split / f"{name}.png")
    tables = folder / "annotations"
    tables.mkdir()
    (tables / "annotations_train.csv").write_text(
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
        "t1,R2,Rib fracture,1,2,30,40\nt1,R3,Lung Opacity,5,5,50,50\n"
        "t1,R9,No finding,,,,\nt2,R2,No finding,,,,\n"
    )
    (tables / "annotations_test.csv").write_text(
        "image_id,class_name,x_min,y_min,x_max,y_max\nu1,Cardiomegaly,10,60,90,110\n"
    )
    (tables / "image_labels_train.csv").write_text(
        "image_id,rad_id,Cardiomegaly,No finding\nt1,R2,0,0\nt1,R3,0,0\nt2,R2,0,1\nt2,R7,0,1\n"
    )
    (tables / "image_labels_test.csv").write_text("image_id,Cardiomegaly,No finding\nu1,1,0\nu2,0,1\n")
    return folder


def test_vindr_keeps_its_22_labels_or_takes_the_competition_s(tmp_path: Path):
    source = make_vindr(tmp_path / "source" / "1.0.0").parent
    adopted, table = adopt(source, tmp_path / "data")
    classes = annotations.read_classes(tmp_path / "data")
    assert classes.finding_names == VINDR_LOCAL and len(VINDR_LOCAL) == 22
    readings = sorted(zip(table.image_id, table.rad_id, table.class_name, strict=True))
    assert readings == [
        ("t1", "R2", "Rib fracture"),
        ("t1", "R3", "Lung Opacity"),
        ("t1", "R9", "No finding"),
        ("t2", "R2", "No finding"),
        ("t2", "R7", "No finding"),
    ]
    truth = annotations.read_annotations(tmp_path / "data" / "test_truth.csv", classes=classes)
    assert boxes_of(truth) == [("u1", "Cardiomegaly", 10.0, 60.0, 90.0, 110.0)]
    assert normal_of(truth) == ["u2"] and set(truth.rad_id) == {"consensus"}
    adopted, table = adopt(source, tmp_path / "kaggle", classes="kaggle")
    assert annotations.read_classes(tmp_path / "kaggle") == VINBIGDATA
    assert set(table.class_name) == {"Other lesion", "Lung Opacity", "No finding"}
    assert "Rib fracture -> Other lesion" in lines(adopted, "took")


def test_every_label_of_vindr_has_a_class_of_the_competition():
    assert {kaggle_name(name) for name in VINDR_LOCAL} == set(VINBIGDATA.finding_names)
    assert kaggle_name("Pneumonia") is None
    assert kaggle_name(" pleural_THICKENING ") == "Pleural thickening"
    assert says_normal("No  Finding") and not says_normal("Finding")


# -- tables as they are found ------------------------------------------------------------------------

ROWS = [
    ("a1", "Cardiomegaly", "3", "R8", "10.5", "20.0", "40.25", "60.0"),
    ("a1", "Nodule/Mass", "8", "R9", "1.0", "2.0", "99.0", "50.5"),
    ("007", "No finding", "14", "R8", "", "", "", ""),
]


def write_table(
    folder: Path, rows: list = ROWS, header: list[str] = ANNOTATION_COLUMNS, *, sep=",", encoding="utf-8"
) -> Path:
    for name in ("a1", "007"):
        draw(folder / "train" / f"{name}.png")
    text = "\n".join(sep.join(row) for row in [header, *rows]) + "\n"
    (folder / "train.csv").write_bytes(text.encode(encoding))
    return folder


def wild(column: int, change) -> list[tuple]:
    return [tuple(change(cell) if i == column else cell for i, cell in enumerate(row)) for row in ROWS]


def without(column: int) -> dict:
    header = [name for i, name in enumerate(ANNOTATION_COLUMNS) if i != column]
    return {"rows": [row[:column] + row[column + 1 :] for row in ROWS], "header": header}


COMMAS = [tuple(cell.replace(".", ",") for cell in row) for row in ROWS]


@pytest.mark.parametrize(
    ("table", "mended"),
    [
        ({"sep": ";"}, "';' between columns"),
        ({"sep": "\t"}, "'tab' between columns"),
        ({"sep": ";", "rows": COMMAS}, "decimal comma"),
        ({"encoding": "utf-16"}, "UTF-16"),
        ({"encoding": "utf-16-le"}, "UTF-16-LE"),
        ({"encoding": "utf-8-sig"}, ""),
        ({"header": [name.upper() for name in ANNOTATION_COLUMNS]}, "headers of train.csv"),
        (
            {"header": ["Image ID", "Class", "label_id", "Radiologist", "xmin", "YMIN", "x2", "bottom"]},
            "headers",
        ),
        ({"rows": wild(1, str.upper)}, "class names in other letters"),
        ({"rows": wild(1, lambda name: f"  {name.replace(' ', '  ')} ")}, "" ),
        ({"rows": wild(0, lambda name: f"train/{name}.png")}, "file's suffix or folder"),
        ({"rows": wild(0, lambda name: "7" if name == "007" else name)}, "zeros"),
        ({"rows": wild(0, lambda name: "7.0" if name == "007" else name)}, "zeros"),
        ({"rows": wild(0, str.upper)}, "letter case"),
        ({"rows": wild(2, lambda number: f"{number}.0")}, ""),
        (without(2), "tables without class ids"),
        (without(1), "tables without class names"),
    ],
)  # fmt: skip
def test_a_table_in_the_wild_becomes_ours(table: dict, mended: str, tmp_path: Path):
    adopted, read = adopt(write_table(tmp_path / "source", **table), tmp_path / "data")
    expected = pd.DataFrame(ROWS, columns=ANNOTATION_COLUMNS).astype({"class_id": int})
    expected[BOX_COLUMNS] = expected[BOX_COLUMNS].apply(pd.to_numeric)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert mended in lines(adopted, "mended")


def test_latin_1_and_own_classes(tmp_path: Path):
    rows = [("a1", "Erguß", "0", "R1", "1", "2", "3", "4"), ("007", "Normal", "1", "R1", "", "", "", "")]
    source = write_table(tmp_path / "source", rows, encoding="latin-1")
    adopted, table = adopt(source, tmp_path / "data")
    assert annotations.read_classes(tmp_path / "data").names == ("Erguß", "Normal")
    assert "LATIN-1" in lines(adopted, "mended")
    assert normal_of(table) == ["007"]


def test_the_last_of_declared_classes_is_the_normal_one(tmp_path: Path):
    rows = [("a1", "Erguss", "0", "R1", "1", "2", "3", "4"), ("007", " GESUND", "1", "R1", "", "", "", "")]
    source = write_table(tmp_path / "source", rows)
    (source / "classes.csv").write_text("class_id,class_name\n0,Erguss\n1,Gesund\n")
    adopted, table = adopt(source, tmp_path / "data")
    assert normal_of(table) == ["007"] and list(table.class_name) == ["Erguss", "Gesund"]
    assert "'Gesund', the last class, for the normal one" in lines(adopted, "took")


def test_a_missing_reader_is_assumed_and_gzip_is_read(tmp_path: Path):
    source = write_table(tmp_path / "source", **without(3))
    text = (source / "train.csv").read_bytes()
    (source / "train.csv").unlink()
    (source / "train.csv.gz").write_bytes(gzip.compress(text))
    adopted, table = adopt(source, tmp_path / "data")
    assert set(table.rad_id) == {"R1"}
    assert "tables without a reader, one is assumed (R1)" in lines(adopted, "mended")


def test_a_folder_of_ours_comes_back_as_it_is(phantom_dir: Path, tmp_path: Path):
    adopted, table = adopt(phantom_dir, tmp_path / "data")
    for name in ("train.csv", "test_truth.csv"):
        with open(phantom_dir / name) as one, open(tmp_path / "data" / name) as other:
            assert list(csv.reader(one)) == list(csv.reader(other))
    sample = "sample_submission.csv"
    assert (tmp_path / "data" / sample).read_text() == (phantom_dir / sample).read_text()
    assert not lines(adopted, "mended") and not lines(adopted, "left out")
    assert adopted.images == {"train": 16, "test": 6}
    truth = annotations.read_test_truth(tmp_path / "data")
    assert truth is not None and truth.image_id.nunique() == 6
    assert annotations.read_test_truth(tmp_path) is None
    fused = annotations.fuse_readers(table)
    assert len(splits.make_folds(fused, folds=3, seed=0)) == 16


def test_sizes_of_originals_are_kept(tmp_path: Path):
    rows = [*ROWS[1:], ("a1", "Cardiomegaly", "3", "R8", "500", "20", "900", "60")]
    source = write_table(tmp_path / "source", rows)
    (source / "train_meta.csv").write_text("image_id,dim0,dim1\na1,1200,1000\n007,1200,1000\n")
    _, table = adopt(source, tmp_path / "data")
    assert table.x_max.max() == 900
    assert "a1,1200,1000" in (tmp_path / "data" / "train_meta.csv").read_text()


# -- what cannot be right ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a1", "Cardiomegaly", "3", "R1", "200", "10", "300", "20"), "left out 1: boxes outside the image"),
        (("a1", "Cardiomegaly", "3", "R1", "10", "10", "10", "20"), "left out 1: boxes without an area"),
        (("a1", "Cardiomegaly", "3", "R1", "10", "x", "20", "20"), "left out 1: boxes with a coordinate"),
        (("a1", "Cardiomegaly", "3", "R1", "10", "", "20", "20"), "left out 1: findings without a whole box"),
        (("a1", "Cardiomegaly", "8", "R1", "1", "1", "20", "20"), "left out 1: rows whose class id"),
        (("a1", "Scoliosis", "", "R1", "1", "1", "20", "20"), "of class 'Scoliosis'"),
        (("zz", "Cardiomegaly", "3", "R1", "1", "1", "20", "20"), "left out 1: images without a file (zz)"),
        (ROWS[0], "left out 1: rows that were there before (a1)"),
        (("a1", "No finding", "14", "R8", "", "", "", ""), "left out 1: normal rows of a reader who found"),
        (("a1", "Cardiomegaly", "3", "R1"), "mended 1: rows that end early, the rest empty"),
        (("a1", "Cardiomegaly", "3", "R1", "1", "1", "20", "20", "5"), "left out 1: rows with more cells"),
        (("a1", "Cardiomegaly", "3", "R1", "60", "10", "20", "20"), "mended 1: boxes whose corners"),
        (("a1", "Cardiomegaly", "3", "R1", "60", "10", "101", "20"), "mended 1: boxes that reach over"),
        (("007", "No finding", "14", "R1", "5", "5", "9", "9"), "mended 1: normal rows with a box"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_counted_and_named(row: tuple, said: str, tmp_path: Path):
    source = write_table(tmp_path / "source", [*ROWS, row])
    (source / "classes.csv").write_text(
        "class_id,class_name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(VINBIGDATA.names))
    )
    adopted, table = adopt(source, tmp_path / "data")
    assert said in "\n".join(adopted.lines)
    good = ("corners", "reach over", "with a box")
    assert len(table) == len(ROWS) + any(word in said for word in good)


def test_a_reading_that_lost_its_boxes_is_not_normal(tmp_path: Path):
    rows = [ROWS[0], ("007", "Cardiomegaly", "3", "R2", "500", "500", "600", "600")]
    adopted, table = adopt(write_table(tmp_path / "source", rows), tmp_path / "data")
    assert set(table.image_id) == {"a1"}
    assert "left out 1: readings that lost all their boxes" in "\n".join(adopted.lines)


def test_nothing_left_is_an_error_and_leaves_nothing(tmp_path: Path):
    source = write_table(tmp_path / "source", [("zz", "Cardiomegaly", "3", "R1", "1", "1", "20", "20")])
    with pytest.raises(
        DataError, match=r"nothing is left to learn from; left out 1: images without a file \(zz\)"
    ):
        adopt(source, tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_tables_alone_are_enough(tmp_path: Path):
    (tmp_path / "source").mkdir()
    pd.DataFrame(ROWS, columns=ANNOTATION_COLUMNS).to_csv(tmp_path / "source" / "train.csv", index=False)
    adopted, table = adopt(tmp_path / "source", tmp_path / "data")
    assert len(table) == 3
    assert "tables alone" in lines(adopted, "took")


def test_odd_entries_stop_nothing(tmp_path: Path):
    source = write_table(tmp_path / "source")
    os.mkfifo(source / "train" / "pipe.png")
    os.mkfifo(source / "train" / "train.csv")
    (source / "train" / "gone.png").symlink_to("nowhere.png")
    (source / "train" / "loop").symlink_to(source)
    draw(source / "train" / "line\nbreak.png")
    draw(source / "train" / "scan.tif")
    (source / "more.zip").write_bytes(b"PK\x03\x04")
    (source / "train" / "broken.png").write_bytes(b"no picture")
    adopted, table = adopt(source, tmp_path / "data")
    assert len(table) == 3
    for words in ("pipes, sockets", "links to files that are gone", "cannot be an id", "(.tif)", "archives"):
        assert words in lines(adopted, "left out")
    assert all("\n" not in line for line in adopted.lines)
    assert (tmp_path / "data" / "train" / "broken.png").is_symlink(), "notebook 02 says what is wrong with it"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p / "nowhere", DataError, "no such folder"),
        (lambda p: _touch(p / "data.zip"), DataError, "an archive; unpack it"),
        (lambda p: _touch(p / "train.csv"), DataError, "expected the folder that holds"),
        (lambda p: draw(p / "bare" / "a.png").parent, DataError, "no form that is known"),
        (lambda p: make_yolo(make_nih(p / "both")), DataError, "may be nih or yolo; say which with --format"),
    ],
)
def test_a_source_that_is_none(make, error, message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        adopt(make(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _touch(path: Path) -> Path:
    path.write_text("")
    return path


def test_a_form_may_be_named(tmp_path: Path):
    both = make_yolo(make_nih(tmp_path / "both"))
    adopted, _ = adopt(both, tmp_path / "data", form="yolo")
    assert "YOLO" in adopted.lines[0]
    with pytest.raises(ParameterError, match="--format pascal: expected one of vindr, nih"):
        adopt(both, tmp_path / "other", form="pascal")
    with pytest.raises(DataError, match=r"expected COCO, found no JSON"):
        adopt(both, tmp_path / "other", form="coco")
    with pytest.raises(ParameterError, match="--classes all: expected own or kaggle"):
        adopt(both, tmp_path / "other", classes="all")


def test_again_is_no_work_and_something_else_is_not_overwritten(tmp_path: Path):
    source = write_table(tmp_path / "source")
    first, _ = adopt(source, tmp_path / "data")
    stamp = (tmp_path / "data" / "adopted.json").stat().st_mtime_ns
    again, _ = adopt(source, tmp_path / "data")
    assert first.made and not again.made
    assert (tmp_path / "data" / "adopted.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match=r"adopted otherwise \(copy differ\)"):
        adopt(source, tmp_path / "data", copy=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty; give a new folder"):
        adopt(source, tmp_path / "mine")
    with pytest.raises(DataError, match="apart from the source"):
        adopt(source, source / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "data", "mine"}


def test_copies_stand_alone(tmp_path: Path):
    source = write_table(tmp_path / "source")
    adopt(source, tmp_path / "data", copy=True)
    copied = tmp_path / "data" / "train" / "a1.png"
    assert not copied.is_symlink() and copied.read_bytes() == (source / "train" / "a1.png").read_bytes()


def test_damaged_documents_are_named(tmp_path: Path):
    source = make_voc(tmp_path / "voc")
    (source / "Annotations" / "z.xml").write_text("<annotation><object>")
    (source / "Annotations" / "y.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>')
    adopted, _ = adopt(source, tmp_path / "data")
    assert "left out 2: XML documents that are no VOC annotation" in "\n".join(adopted.lines)
    coco = make_coco(tmp_path / "coco")
    path = coco / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"] += [
        {"id": 8, "image_id": 99, "category_id": 7, "bbox": [1, 1, 2, 2]},
        {"id": 9, "image_id": 5, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"id": 10, "image_id": 5, "category_id": 7, "bbox": [1, 1, 2]},
        {"id": 11, "image_id": 5, "category_id": 7, "bbox": [1, 1, 2, 2], "iscrowd": 1},
        "none",
    ]
    path.write_text(json.dumps(document))
    adopted, table = adopt(coco, tmp_path / "more")
    assert boxes_of(table) == sorted(BOXES)
    assert len([line for line in adopted.lines if line.startswith("left out")]) == 4
    with pytest.raises(AnnotationError, match=r"expected image, finding, x, y, w, h, got 2 columns"):
        nih = make_nih(tmp_path / "nih")
        (nih / "BBox_List_2017.csv").write_text("a,b\n1,2\n")
        adopt(nih, tmp_path / "nothing")
