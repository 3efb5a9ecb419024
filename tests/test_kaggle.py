"""The kernel folder: metadata Kaggle takes, and a notebook that carries the project."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import nbformat
import pytest

from cxr import kaggle
from cxr.errors import ParameterError


def write(folder: Path, **options: object) -> tuple[dict, str]:
    path = kaggle.write_kernel({"image_size": 512, "arch": "light"}, folder, user="someone", **options)
    metadata = json.loads(path.read_text())
    notebook = nbformat.read(folder / metadata["code_file"], 4)
    nbformat.validate(notebook)
    return metadata, "\n".join(cell.source for cell in notebook.cells)


def test_metadata_for_a_private_kernel_without_internet(tmp_path: Path):
    metadata, _ = write(tmp_path, datasets=["someone/weights"])
    assert metadata["id"] == "someone/cxr-abnormality-detector"
    assert metadata["code_file"] == "cxr-abnormality-detector.ipynb"
    assert metadata["enable_internet"] is False
    assert metadata["is_private"] is True
    assert metadata["competition_sources"] == [kaggle.COMPETITION]
    assert metadata["dataset_sources"] == ["someone/weights"]


def test_the_notebook_carries_package_and_notebooks(tmp_path: Path):
    _, source = write(tmp_path)
    text = re.search(r'ARCHIVE = """\n(.*?)"""', source, re.DOTALL).group(1)
    names = zipfile.ZipFile(io.BytesIO(base64.b64decode(text))).namelist()
    assert {
        "cxr/schema.py",
        "cxr/report.html.j2",
        "notebooks/01_eda.py",
        "notebooks/08_submission.py",
    } <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert "image_size: 512" in source
    assert "data_dir:" not in source, "where the data are is found on Kaggle"


def test_same_project_same_bytes(tmp_path: Path):
    assert write(tmp_path / "a")[1] == write(tmp_path / "b")[1]


@pytest.mark.parametrize("place", ["slug", "competitions/slug", "datasets/owner/slug"])
def test_finds_the_input_wherever_kaggle_mounts_it(place: str, tmp_path: Path):
    (tmp_path / place).mkdir(parents=True)
    assert kaggle.find_input(tmp_path, "slug") == tmp_path / place


def test_finds_a_file_by_its_short_path_wherever_its_data_set_is_mounted(tmp_path: Path):
    mounted = tmp_path / "datasets" / "owner" / "weights" / "a" / "best.pth"
    mounted.parent.mkdir(parents=True)
    mounted.touch()
    assert kaggle.find_file(tmp_path, str(tmp_path / "weights" / "a" / "best.pth")) == str(mounted)
    for given in ("", "torchvision", str(mounted), "/elsewhere/best.pth"):
        assert kaggle.find_file(tmp_path, given) == given
    with pytest.raises(ParameterError, match="no input 'other'"):
        kaggle.find_file(tmp_path, str(tmp_path / "other" / "best.pth"))


def test_names_what_is_mounted_instead(tmp_path: Path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ParameterError, match="no input 'slug'; mounted are other"):
        kaggle.find_input(tmp_path, "slug")
    with pytest.raises(ParameterError, match="mounted are none"):
        kaggle.find_input(tmp_path / "absent", "slug")


def test_kaggle_s_own_rules(tmp_path: Path):
    with pytest.raises(ParameterError, match="at least 5 characters"):
        write(tmp_path, title="cxr")
    with pytest.raises(ParameterError, match="expected owner/slug"):
        write(tmp_path, datasets=["weights"])


def test_user_comes_from_the_client_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert kaggle._configured_user() == kaggle.NO_USER
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text('{"username": "me", "key": "k"}')
    assert kaggle._configured_user() == "me"
    monkeypatch.setenv("KAGGLE_USERNAME", "other")
    assert kaggle._configured_user() == "other"
