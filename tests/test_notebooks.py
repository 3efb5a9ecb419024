"""The eight notebooks through the command, on the smallest phantom, and what they leave to its users."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from smoke_run import SMOKE, TABLES, cxr

from cxr import annotations, chain, report, schema, submission
from cxr.chain.manifest import read_manifest

pytestmark = [pytest.mark.chain, pytest.mark.slow]


def test_every_notebook_finished_and_wrote_its_files(smoke: tuple[Path, Path]):
    run_dir, _ = smoke
    for notebook in chain.read_notebooks():
        manifest = read_manifest(run_dir / notebook.name)
        assert manifest is not None
        assert list((run_dir / notebook.name / "figures").glob("*.png"))
    for table in TABLES:
        assert len(pd.read_csv(run_dir / table)), table
    page = (run_dir / report.REPORT).read_text()
    assert page.count("<figure>") == len(list(run_dir.glob("*/figures/*.png")))
    assert "<figcaption></figcaption>" not in page, "every picture says how to read it"
    verdicts = ("Warning: the DICOM headers", "Cannot tell whether the headers leak", "No leak seen")
    assert sum(verdict in page for verdict in verdicts) == 1, "the report says whether the headers leak"


def test_a_second_call_does_nothing(smoke: tuple[Path, Path]):
    run_dir, data_dir = smoke
    done = cxr("run", SMOKE, "-p", f"data_dir={data_dir}", "-p", f"run_dir={run_dir}", "-p", "jobs=1")
    assert done.returncode == 0
    assert done.stdout.count("up to date") == 9


def test_the_submission_is_what_the_competition_takes(smoke: tuple[Path, Path]):
    run_dir, data_dir = smoke
    path = run_dir / schema.SUBMISSION_CSV
    parsed = submission.check(path, data_dir / "sample_submission.csv")
    normal = parsed[parsed.class_id == schema.VINBIGDATA.normal_id]
    assert len(normal) == parsed.image_id.nunique(), "every image has one graded normal line"
    scored = cxr("score", path, data_dir / "test_truth.csv", "--json")
    assert scored.returncode == 0
    written = json.loads((run_dir / schema.SCORE_JSON).read_text())
    assert json.loads(scored.stdout)["map"] == pytest.approx(written["map"], abs=1e-6)


def test_checked_cells_hold_by_nbval(smoke: tuple[Path, Path]):
    """Cells marked as the same in every run print the same again, by the tool itself."""
    run_dir, _ = smoke
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax"]
    command += ["--nbval-current-env", "--nbval-cell-timeout=300", "--rootdir", str(run_dir)]
    command += [str(run_dir / "04_split" / "04_split.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=run_dir)
    assert done.returncode == 0, done.stdout[-3000:]


def test_predict_files_of_all_sorts(smoke: tuple[Path, Path], tmp_path: Path):
    run_dir, data_dir = smoke
    (tmp_path / "in").mkdir()
    good = sorted((data_dir / "test").iterdir())[0]
    shutil.copy(good, tmp_path / "in" / "one.dicom")
    cv2.imwrite(str(tmp_path / "in" / "two.png"), np.arange(200 * 300, dtype=np.uint16).reshape(200, 300))
    (tmp_path / "in" / "broken.dcm").write_text("no image")
    checkpoint = run_dir / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
    out = tmp_path / "out"
    done = cxr("predict", checkpoint, tmp_path / "in", "--out", out, "--pictures", "--score-threshold", "0")
    assert done.returncode == 0, done.stderr
    assert "broken.dcm" in done.stderr
    document = json.loads((out / "predictions.json").read_text())
    assert [image["image_id"] for image in document["images"]] == ["one", "two"]
    assert [Path(row["file"]).name for row in document["failures"]] == ["broken.dcm"]
    table = pd.read_csv(out / "predictions.csv")
    assert table[table.image_id == "two"].x_max.max() <= 300
    assert sorted(p.name for p in (out / "pictures").iterdir()) == ["one.png", "two.png"]


def test_export_for_other_tools(smoke: tuple[Path, Path], tmp_path: Path):
    run_dir, _ = smoke
    for kind in ("png", "coco", "yolo"):
        done = cxr("export", run_dir, tmp_path / kind, "--format", kind)
        assert done.returncode == 0, done.stderr
        assert cxr("export", run_dir, tmp_path / kind, "--format", kind).returncode == 2, "not empty"

    classes = annotations.read_classes(tmp_path / "png")
    table = annotations.read_annotations(tmp_path / "png" / "train.csv", classes=classes)
    sizes = {
        i: cv2.imread(str(tmp_path / "png" / "train" / f"{i}.png"), -1).shape for i in table.image_id.unique()
    }
    found = table.dropna(subset=schema.BOX_COLUMNS)
    assert len(sizes) == 16
    assert all(row.x_max <= sizes[row.image_id][1] + 0.01 for row in found.itertuples())

    coco = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    consensus = pd.read_csv(run_dir / schema.TRAIN_CSV).dropna(subset=schema.BOX_COLUMNS)
    assert len(coco["annotations"]) == len(consensus)
    assert (tmp_path / "coco" / "images" / "train" / coco["images"][0]["file_name"]).is_file()

    labels = list((tmp_path / "yolo" / "labels" / "train").iterdir())
    lines = [line.split() for path in labels for line in path.read_text().splitlines()]
    assert len(lines) == len(consensus)
    assert all(0 <= float(value) <= 1 for line in lines for value in line[1:])
