"""What other tools are given: read back by their own readers, or by the rules of their documents."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from cxr import annotations, export, files, schema, store
from cxr.errors import DataError, DiskError, ParameterError
from cxr.export import card, coco
from cxr.schema import ClassTable
from cxr.store import ShardImage

CLASSES = ClassTable(("Bright: it's", "Dark", "No finding"))
SIZES = {"a": (40, 30), "007": (30, 40), "NA": (32, 32), "t1": (20, 40), "t2": (40, 20)}
SPLIT = {"t1": "test", "t2": "test"}
FACTOR = 2  # originals are twice as large


def make_run(folder: Path, *, truth: bool = True) -> tuple[Path, Path]:
    """A run's tables and store as notebooks 01 to 08 leave them, and its data folder."""
    root, data = folder / "run", folder / "data"
    images = root / schema.IMAGES_DIR
    images.mkdir(parents=True)
    data.mkdir()
    rng = np.random.default_rng(0)
    header = dict.fromkeys(schema.HEADER_COLUMNS, "")
    content = [
        ShardImage(
            image_id,
            SPLIT.get(image_id, "train"),
            rng.integers(0, 256, size).astype(np.uint8),
            (size[0] * FACTOR, size[1] * FACTOR),
            header,
            (image_id, 1, 2),
        )
        for image_id, size in SIZES.items()
    ]
    store.write_index(images, [("s.h5", store.write_shard(images / "s.h5", content, compression="none"))])
    box = (4.0, 8.0, 24.0, 38.0)
    nothing = (np.nan,) * 4
    read = [
        ("a", "Dark", 1, "R1", *box),
        ("a", "Dark", 1, "R2", *box),
        ("007", "No finding", 2, "R1", *nothing),
        ("NA", "Bright: it's", 0, "R1", *box),
        ("lost", "Dark", 1, "R1", *box),
    ]
    fused = [(*row[:3], *row[4:], 1, 1.0) for row in (read[0], read[2], read[4])]
    held = [(*read[3][:3], *read[3][4:], 1, 1.0)]
    found = pd.DataFrame(
        [("NA", 0, 0.75, *box, 0), ("NA", 1, 0.25, 0.0, 0.0, 64.0, 64.0, 0)],
        columns=[*schema.DETECTION_COLUMNS, schema.FOLD],
    )
    tables = {
        schema.TRAIN_FULL_CSV: pd.DataFrame(read, columns=schema.ANNOTATION_COLUMNS),
        schema.TRAIN_CSV: pd.DataFrame(fused, columns=schema.CONSENSUS_COLUMNS),
        schema.VAL_CSV: pd.DataFrame(held, columns=schema.CONSENSUS_COLUMNS),
        schema.VAL_PREDICTIONS_CSV: found,
        schema.TEST_DETECTIONS_CSV: found.iloc[:1].assign(image_id="t1"),
    }
    for name, table in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(root / name, index=False)
    if truth:
        rows = [("t1", "Dark", 1, "R1", *box), ("t2", "No finding", 2, "R1", *nothing)]
        pd.DataFrame(rows, columns=schema.ANNOTATION_COLUMNS).to_csv(data / "test_truth.csv", index=False)
    return root, data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("export"))


def written(run: tuple[Path, Path], out: Path, format: str) -> Path:
    assert export.export_run(run[0], out, format=format, classes=CLASSES, data_dir=run[1]) == 5
    return out


def test_coco_is_read_by_its_own_tools(run, tmp_path, capsys):
    from pycocotools.coco import COCO

    out = written(run, tmp_path / "coco", "coco")
    assert sorted(p.name for p in (out / "annotations").iterdir()) == [
        "instances_test.json", "instances_train.json", "instances_val.json", "results_test.json",
        "results_val.json",
    ]  # fmt: skip
    for part, count in (("train", 1), ("val", 1), ("test", 1)):
        read = COCO(out / "annotations" / f"instances_{part}.json")
        (annotation,) = read.loadAnns(read.getAnnIds())
        assert len(read.getAnnIds()) == count
        assert annotation["bbox"] == [2.0, 4.0, 10.0, 15.0], "half the original pixels"
        for image in read.loadImgs(read.getImgIds()):
            pixels = cv2.imread(str(out / "images" / part / image["file_name"]), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (image["height"], image["width"]) == SIZES[image["file_name"][:-4]]
    found = read.loadRes(str(out / "annotations" / "results_test.json"))
    assert [a["score"] for a in found.loadAnns(found.getAnnIds())] == [0.75]
    categories = read.loadCats(read.getCatIds())
    assert [(c["id"], c["name"]) for c in categories] == [(0, "Bright: it's"), (1, "Dark")]


def test_coco_claims_nothing_about_test_images_without_a_truth(tmp_path):
    out = written(make_run(tmp_path, truth=False), tmp_path / "out", "coco")
    assert not (out / "annotations" / "instances_test.json").exists()
    document = json.loads((out / "annotations" / "image_info_test.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["t1.png", "t2.png"]
    assert "annotations" not in document


def resolved_as_yolo_tools_do(path: Path) -> dict[str, Path]:
    """Folders by Ultralytics' rule: relative to `path`, and where there is none to the file's folder."""
    data = yaml.safe_load(path.read_text())
    home = Path(data.get("path") or path.parent)
    return {name: (home / data[name]).resolve() for name in ("train", "val", "test") if name in data}


def test_yolo_folders_are_found_from_any_working_directory(run, tmp_path, monkeypatch):
    out = written(run, tmp_path / "yolo", "yolo")
    monkeypatch.chdir(tmp_path)
    folders = resolved_as_yolo_tools_do(out / "data.yaml")
    assert {name: len(list(folder.iterdir())) for name, folder in folders.items()} == {
        "train": 2, "val": 1, "test": 2,
    }  # fmt: skip
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data["names"] == {0: "Bright: it's", 1: "Dark"} and data["nc"] == 2 and "path" not in data
    for image in (p for folder in folders.values() for p in folder.iterdir()):
        label = Path(str(image).replace(f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"))
        for line in label.with_suffix(".txt").read_text().splitlines():
            name, x, y, w, h = (float(value) for value in line.split())
            height, width = SIZES[image.stem]
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert corners == pytest.approx([2, 4, 12, 19], abs=1e-3), (image.stem, name)


def test_yolo_test_images_without_a_truth_have_no_labels(tmp_path):
    out = written(make_run(tmp_path, truth=False), tmp_path / "out", "yolo")
    assert "test: images/test\n" in (out / "data.yaml").read_text()
    assert not (out / "labels" / "test").exists(), "an empty file of labels would say normal"


def test_png_is_a_data_folder_of_this_project(run, tmp_path):
    out = written(run, tmp_path / "png", "png")
    classes = annotations.read_classes(out)
    assert classes == CLASSES
    table = annotations.read_annotations(out / "train.csv", classes=classes)
    assert table[schema.IMAGE_ID].tolist() == ["a", "a", "007", "NA"]
    assert table[schema.BOX_COLUMNS].to_numpy()[0].tolist() == [2, 4, 12, 19]
    assert len(annotations.read_annotations(out / "test_truth.csv", classes=classes)) == 2


def test_refusals(run, tmp_path):
    with pytest.raises(ParameterError, match="expected one of png, coco, yolo"):
        export.export_run(run[0], tmp_path / "x", format="voc", classes=CLASSES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, says in ((tmp_path / "full", "not empty"), (tmp_path / "full" / "file", "got a file")):
        with pytest.raises(DataError, match=says):
            export.export_run(run[0], out, format="coco", classes=CLASSES)
    with pytest.raises(DataError, match="notebook 02_preprocess writes it"):
        export.export_run(tmp_path, tmp_path / "x", format="coco", classes=CLASSES)


@pytest.mark.parametrize("format", export.FORMATS)
def test_a_full_disk_is_named(run, tmp_path, monkeypatch, format):
    """The picture's writer must not swallow it, and no file may stand there half written."""
    out, kept = tmp_path / "out", files.publish

    def full(unfinished: Path, path: Path) -> None:
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(unfinished, path)

    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(DiskError, match=r"\.png: the disk is full"):
        export.export_run(run[0], out, format=format, classes=CLASSES)
    assert not list(out.rglob("*.png"))


def test_coco_results_of_nothing(tmp_path):
    path = tmp_path / "results.json"
    assert coco.write_results(path, pd.DataFrame(columns=schema.DETECTION_COLUMNS), ["a"], CLASSES) == 0
    assert json.loads(path.read_text()) == []


# -- the model card ----------------------------------------------------------------------------------

DETECTOR = card.CardDetector("fold0.onnx", "f" * 64, 0, "c" * 64, "light", 320, 1_360_522)


def front_and_text(path: Path) -> tuple[dict, str]:
    _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_card_says_what_the_run_knows(tmp_path):
    root, data = make_run(tmp_path)
    boxes = pd.read_csv(root / schema.TRAIN_CSV), pd.read_csv(root / schema.VAL_CSV)
    pd.concat(boxes).to_csv(root / schema.CONSENSUS_CSV, index=False)
    folds = pd.DataFrame([("a", 1), ("007", 1), ("lost", 1), ("NA", 0)], columns=["image_id", "fold"])
    folds.to_csv(root / schema.FOLDS_CSV, index=False)
    (root / "parameters.yaml").write_text(f"data_dir: {data}\n")
    score = {"map": 0.5, "map_low": 0.4, "map_high": 0.625, "map_findings": 0.25, "n_images": 2, "n_truth": 3}
    score["per_class"] = [
        {"class_name": "Bright | `x`", "ap": 0.125, "ap_low": 0, "ap_high": 1, "n_truth": 1}
    ]
    (root / schema.SCORE_JSON).write_text(json.dumps(score))
    recipe = {"epochs": 8, "weights": "/home/someone/w.pth", "num_workers": 3}
    manifest = {"parameters": recipe, "versions": {"torch": "2.14"}, "git_revision": "abc"}
    (root / "06_detector").mkdir(exist_ok=True)
    (root / "06_detector" / "manifest.json").write_text(json.dumps(manifest))
    path = card.write_card(root, tmp_path / "out", [DETECTOR], classes=CLASSES, format="onnx")
    front, text = front_and_text(path)
    assert path.name == "README.md" and front["license"] == "other"
    (result,) = front["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.25, 0.5]
    assert "| fold0.onnx | 3 | 2 | 1 | 2 | 1 |" in text, "learnt from three images, one is held out"
    for words in (
        "**Not a medical device.**", "0.500 | 0.400 to 0.625",
        "| Bright / 'x' | 0.125 | 0.000 to 1.000 | 1 |",
        "| `epochs` | `8` |", "`w.pth`", "f" * 64, "c" * 64, "torch 2.14", "## Limits",
    ):  # fmt: skip
        assert words in text, words
    assert "/home/someone" not in text and "num_workers" not in text
    assert "## Scores on validation images\n\nNot recorded in this run." in text


def test_card_of_a_run_that_keeps_nothing(tmp_path):
    (tmp_path / "06_detector").mkdir()
    (tmp_path / "06_detector" / "manifest.json").write_bytes(b"\xff")
    path = card.write_card(tmp_path, tmp_path / "out", [DETECTOR], classes=CLASSES, format="safetensors")
    front, text = front_and_text(path)
    assert "model-index" not in front and text.count("Not recorded in this run") == 4
    assert "**Not a medical device.**" in text
