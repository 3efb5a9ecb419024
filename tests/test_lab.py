"""The first page of JupyterLab, and that saving there leaves the notebooks' text as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from cxr import chain, lab, schema

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def test_the_overview_says_what_is_there(tmp_path: Path):
    data, run = tmp_path / "data", tmp_path / "run"
    (data / "train").mkdir(parents=True)
    for name in (schema.TRAIN_FULL_CSV, schema.LEFT_OUT_CSV, schema.CONSENSUS_CSV):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    (run / "parameters.yaml").write_text(f"data_dir: {data}\n")
    rows = {row.name: row for row in lab.overview(str(run)).rows}
    assert [*rows] == [notebook.name for notebook in chain.read_notebooks()]
    assert rows["01_eda"].needs == {"train.csv": False}
    assert rows["01_eda"].makes == {schema.TRAIN_FULL_CSV: True, schema.LEFT_OUT_CSV: True}
    assert rows["02_preprocess"].needs == {"train/": True, "test/": False}
    assert rows["04_split"].needs == {schema.TRAIN_FULL_CSV: True}, "the store is no need there"
    text = lab.overview(str(run))._repr_markdown_()
    assert "| [01_eda](01_eda.py) | Explore the annotations and the headers | ✗ `train.csv` | ✓ yes |" in text
    assert "1 of 4 files" in text and "There are no data yet" in text


def test_every_notebook_has_needs_and_products():
    for row in lab.overview("outputs/there_is_none").rows:
        assert row.needs and row.makes and row.title, row.name
        assert not any(row.makes.values())


def test_the_index_is_a_notebook_with_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chain, "notebooks_folder", lambda: tmp_path)
    monkeypatch.setattr(chain, "read_notebooks", lambda read=chain.read_notebooks: read(ROOT / "notebooks"))
    page = nbformat.read(lab.write_index("outputs/there_is_none"), as_version=4)
    nbformat.validate(page)
    assert "[08_submission](08_submission.py)" in page.cells[1].outputs[0]["data"]["text/markdown"]
    assert "overview('outputs/there_is_none')" in page.cells[1].source


def test_a_double_click_opens_a_notebook():
    settings = json.loads((ROOT / "jupyterlab" / "overrides.json").read_text())
    viewers = settings["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers["python"] == "Jupytext Notebook"


def test_saving_in_jupyterlab_changes_nothing(tmp_path: Path):
    """What JupyterLab adds to a notebook (kernel, language, outputs, times) stays out of its text."""
    large = pytest.importorskip("jupyter_server.services.contents.largefilemanager")
    sync = pytest.importorskip("jupytext.sync_contentsmanager")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("*.ipynb*"))
    manager = sync.build_sync_jupytext_contents_manager_class(large.LargeFileManager)()
    manager.root_dir = str(tmp_path)
    for path in PATHS:
        model = manager.get(f"notebooks/{path.name}", type="notebook")
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        model["content"]["metadata"] |= {"kernelspec": kernel, "language_info": {"name": "python"}}
        model["content"]["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
        for cell in model["content"]["cells"]:
            cell["metadata"] |= {"trusted": True, "execution": {"iopub.status.busy": "2026-01-01"}}
            if cell["cell_type"] == "code":
                cell["execution_count"] = 3
                cell["outputs"] = [nbformat.v4.new_output("stream", text="seen")]
        manager.save(model, f"notebooks/{path.name}")
        assert (tmp_path / "notebooks" / path.name).read_text() == path.read_text(), path.name
    assert sorted(p.name for p in (tmp_path / "notebooks").iterdir()) == [p.name for p in PATHS], "no twins"
