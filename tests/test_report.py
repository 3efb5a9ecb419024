"""The report of a run: scores, pictures and captions in one page, whatever has finished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr import report, schema
from cxr.chain import manifest
from cxr.errors import DataError
from cxr.rundir import CAPTION_KEY


def test_a_page_holds_scores_pictures_and_captions(tmp_path: Path):
    folder = tmp_path / "01_eda" / "figures"
    folder.mkdir(parents=True)
    info = PngInfo()
    info.add_text(CAPTION_KEY, "Bars <show> counts.")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "classes.png", pnginfo=info)
    score = tmp_path / schema.SCORE_JSON
    score.parent.mkdir()
    score.write_text(
        json.dumps({"map": 0.51234, "interval": [0.4, 0.6], "per_class": [{"name": "ILD", "ap": 0.25}]})
    )

    assert report.submission_score(tmp_path) is None, "whatever lies there, notebook 08 has not finished"
    manifest.write_manifest(score.parent, {}, seconds=1.0, peak_memory_mb=1.0)
    page = report.write_report(tmp_path).read_text()
    assert "Bars &lt;show&gt; counts." in page
    assert "data:image/png;base64," in page
    assert "0.5123" in page
    assert "0.4000 to 0.6000" in page
    assert "<td>ILD</td><td>0.250</td>" in page
    assert page.count("not finished") == 7
    assert report.submission_score(tmp_path)["map"] == 0.51234


def test_what_is_damaged_is_not_shown(tmp_path: Path):
    folder = tmp_path / "08_submission" / "figures"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "classes.png")
    (tmp_path / schema.SCORE_JSON).write_text('{"map": 0.5}')
    manifest.write_manifest(folder.parent, {}, seconds=1.0, peak_memory_mb=1.0)
    (folder / "classes.png").write_bytes(b"no picture")
    (tmp_path / schema.SCORE_JSON).write_text('{"map": 0.9}')
    page = report.write_report(tmp_path).read_text()
    assert "data:image/png" not in page
    assert report.submission_score(tmp_path) is None
    (folder.parent / manifest.MANIFEST).write_bytes(b"\xff")
    assert page.count("not finished") == report.write_report(tmp_path).read_text().count("not finished") - 1


def test_an_empty_run_still_has_a_page(tmp_path: Path):
    assert "<h2>Score</h2>" not in report.write_report(tmp_path).read_text()
    assert report.submission_score(tmp_path) is None


def test_no_run_no_page(tmp_path: Path):
    with pytest.raises(DataError, match="no such run"):
        report.write_report(tmp_path / "missing")
