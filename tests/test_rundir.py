"""A run's folder: paths that mean the same everywhere, files that are complete or not there."""

from __future__ import annotations

import builtins
import html
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cxr import schema
from cxr.errors import DataError, RunError
from cxr.rundir import CAPTION_KEY, RunDir, alone, as_markdown, locate, progress_printer, project_root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_relative_paths_start_at_the_project_from_any_folder_in_it(project: Path):
    assert project_root() == project
    assert locate("data/demo") == project / "data" / "demo"
    assert locate(project / "elsewhere") == project / "elsewhere"


def test_outside_a_project_relative_paths_start_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert locate("x") == tmp_path / "x"


def test_input_names_the_notebook_that_writes_it(project: Path):
    run = RunDir("outputs/r", "05_classifier")
    with pytest.raises(DataError, match=r"folds\.csv: not found; notebook 04_split writes it"):
        run.input(schema.FOLDS_CSV)
    assert not run.has(schema.FOLDS_CSV)


def test_output_only_into_the_own_folder(project: Path):
    run = RunDir("outputs/r", "05_classifier")
    with pytest.raises(DataError, match="05_classifier writes only to its own folder"):
        run.output(schema.FOLDS_CSV)


def test_tables_and_numbers_come_back(project: Path):
    run = RunDir("outputs/r", "04_split")
    table = pd.DataFrame({"image_id": ["a"], "fold": [1]})
    run.write_csv(table, schema.FOLDS_CSV)
    pd.testing.assert_frame_equal(pd.read_csv(run.input(schema.FOLDS_CSV)), table)
    path = run.write_json(
        {"map": np.float32(0.5), "counts": np.arange(2), "path": Path("x")}, "04_split/a.json"
    )
    assert json.loads(path.read_text()) == {"map": 0.5, "counts": [0, 1], "path": "x"}


def test_figure_carries_its_caption(project: Path):
    run = RunDir("outputs/r", "01_eda")
    figure = Figure()
    figure.add_subplot().plot([0, 1])
    assert run.figure(figure, "line", "A line.") is figure
    with Image.open(run.folder / "figures" / "line.png") as image:
        assert image.info[CAPTION_KEY] == "A line."


def test_progress_off_a_terminal_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([100.0, 102.0, 110.0])
    monkeypatch.setattr("cxr.rundir.time.monotonic", lambda: next(clock))
    show = progress_printer("images", every_s=0.0)
    # 4,000 were finished before; 20 in 2 s are 10 a second, 100 in 10 s still are.
    show(4000, 4800)
    show(4020, 4800)
    show(4100, 4800)
    assert capsys.readouterr().err.splitlines() == [
        "4000/4800 images",
        "4020/4800 images, 10.0/s, 1:18 left",
        "4100/4800 images, 10.0/s, 1:10 left",
    ]


def test_progress_keeps_its_pause_and_shows_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 4.0, 9.0])
    monkeypatch.setattr("cxr.rundir.time.monotonic", lambda: next(clock))
    show = progress_printer("images", every_s=5.0)
    for done in (0, 1, 3):
        show(done, 3)
    assert capsys.readouterr().err.splitlines() == ["0/3 images", "3/3 images, 0.3/s, 0:00 left"]


def test_messages_are_seen_in_a_kernel(project: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    logger = logging.getLogger("cxr")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    monkeypatch.setattr(logger, "propagate", False)  # pytest listens at the root
    RunDir("outputs/x", "01_eda")
    logger.info("unseen outside a kernel")
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    for name in ("01_eda", "02_preprocess"):
        RunDir("outputs/x", name)
    logger.info("seen once")
    assert capsys.readouterr().err == "seen once\n"


def test_image_ids_stay_text(project: Path):
    run = RunDir("outputs/x", "01_eda")
    table = pd.DataFrame({"image_id": ["007", "NA", "1e5"], "x_min": [1.5, None, 2]})
    run.write_csv(table, schema.TRAIN_FULL_CSV)
    read = run.read_csv(schema.TRAIN_FULL_CSV)
    assert read["image_id"].tolist() == ["007", "NA", "1e5"]
    assert read["x_min"].isna().tolist() == [False, True, False]


def test_one_process_a_folder(tmp_path: Path):
    text = r"run: another run is working in this folder \(process \d+ on "
    with alone(tmp_path / "run"), pytest.raises(RunError, match=text), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass


def test_text_from_data_is_no_markup():
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    names = [
        "<img src=x onerror=alert(1)>",
        "**bold** [a](javascript:b)",
        "$x^2$ `c` _d_",
        "# a\n\n- b",
        "A & B",
    ]
    for name in names:
        page = markdown2html_mistune(f"Findings: {as_markdown(name)}.")
        shown = html.unescape(re.sub(r"</?p>", "", page)).strip()
        assert shown == f"Findings: {' '.join(name.split())}."
        assert not re.search(r"<(?!/?p>)", page)
