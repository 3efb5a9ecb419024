"""What a notebook depends on, and damage noticed before it is used; the notebooks here are not executed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr import chain, schema
from cxr.chain import inputs, manifest, notebooks, runner
from cxr.errors import DataError, ParameterError

HEAD = '# %% tags=["parameters"]\nrun_dir: str = "run"  # machine: folder of the run\n'
TEXTS = {
    "01_eda": 'data_dir: str = "data"  # machine: folder with train.csv, train/\n'
    "# %%\nschema.TRAIN_FULL_CSV\n",
    "02_preprocess": 'data_dir: str = "data"  # machine: folder with train/\n'
    "jobs: int = 1  # machine: processes\nseconds: float = 1.0  # s\n# %%\nschema.IMAGES_DIR\n",
    "04_split": 'data_dir: str = "data"  # machine: folder with classes.csv\n# %%\nschema.TRAIN_FULL_CSV\n'
    "schema.CONSENSUS_CSV\nschema.FOLDS_CSV\n",
    "06_detector": 'weights: str = ""  # a file\nothers: list[str] = []  # files\n'
    'name: str = "light"  # network\n'
    "# %%\nschema.IMAGES_DIR\nschema.CONSENSUS_CSV\nschema.CHECKPOINTS_DIR\n",
}
WRITES = {
    "01_eda": [schema.TRAIN_FULL_CSV],
    "02_preprocess": [f"{schema.IMAGES_DIR}/index.csv", f"{schema.IMAGES_DIR}/shard-0.h5"],
    "04_split": [schema.CONSENSUS_CSV, schema.FOLDS_CSV],
    "06_detector": [f"{schema.CHECKPOINTS_DIR}/best.ckpt"],
}
NAMES = list(TEXTS)


class Project:
    """A data folder, four notebooks, and a run whose notebooks only write their files' names."""

    def __init__(self, root: Path) -> None:
        self.root, self.run_dir, self.values = root, root / "run", {}
        for name, text in TEXTS.items():
            path = root / "notebooks" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(HEAD + text)
        (root / "params").mkdir()
        for name in ("data/train/a.dicom", "data/train.csv", "data/classes.csv"):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def run(self, **options: str | bool) -> list[str]:
        values = params_of(self.root / "notebooks") | self.values
        return chain.run(values, notebooks=self.root / "notebooks", **options)

    def damage(self, artefact: str) -> None:
        """Change a byte; size and time stay."""
        path = self.run_dir / artefact
        content, status = bytearray(path.read_bytes()), path.stat()
        content[0] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def params_of(folder: Path) -> dict[str, object]:
    return {n: d.default for nb in chain.read_notebooks(folder) for n, d in nb.parameters.items()}


def write_files(notebook: notebooks.Notebook, values: object, folder: Path, log: object = None) -> float:
    """Stands in for the kernel."""
    for artefact in WRITES[notebook.name]:
        path = folder.parent / artefact
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(artefact)
    return 1.0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "execute", write_files)
    project = Project(tmp_path)
    (tmp_path / "w0.pth").write_text("weights")
    (tmp_path / "w1.pth").write_text("weights")
    (tmp_path / "wx.pth").write_text("weights")
    return project


def touch(path: Path) -> None:
    os.utime(path, (0, 0))


def note(path: Path) -> None:
    path.write_text(path.read_text() + "# a note\n")


# What is done after a finished run, and which notebooks run again.
CHANGES: dict[str, tuple[Callable[[Project], object], list[str]]] = {
    "nothing": (lambda p: None, []),
    "number of processes": (lambda p: p.values.update(jobs=4), []),
    "a parameter": (lambda p: p.values.update(seconds=2.0), ["02_preprocess"]),
    "data_dir with a slash": (lambda p: p.values.update(data_dir=f"{p.root}/data/"), []),
    "data moved": (
        lambda p: (os.rename(p.root / "data", p.root / "d2"), p.values.update(data_dir="d2")),
        [],
    ),
    "train.csv touched": (lambda p: touch(p.root / "data" / "train.csv"), []),
    "train.csv edited": (lambda p: note(p.root / "data" / "train.csv"), ["01_eda"]),
    "classes.csv edited": (lambda p: note(p.root / "data" / "classes.csv"), ["04_split"]),
    "a radiograph more": (
        lambda p: (p.root / "data" / "train" / "b.dicom").touch(),
        ["01_eda", "02_preprocess"],
    ),
    "a file nobody reads": (lambda p: (p.root / "data" / "notes.txt").touch(), []),
    "a link in a circle": (lambda p: (p.root / "data" / "loop").symlink_to("loop"), []),
    "a notebook's text": (lambda p: note(p.root / "notebooks" / "04_split.py"), ["04_split"]),
    "a manifest cut": (
        lambda p: os.truncate(p.run_dir / "01_eda" / "manifest.json", 100),
        ["01_eda"],
    ),
    "a manifest that is no text": (
        lambda p: (p.run_dir / "01_eda" / "manifest.json").write_bytes(b'{"outputs": "\xff"}'),
        ["01_eda"],
    ),
    "a bit of a manifest": (lambda p: p.damage("04_split/manifest.json"), ["04_split"]),
    "a bit of a table": (lambda p: p.damage(schema.CONSENSUS_CSV), ["04_split"]),
    "a bit of an image": (lambda p: p.damage(f"{schema.IMAGES_DIR}/shard-0.h5"), ["02_preprocess"]),
    "a table deleted": (lambda p: (p.run_dir / schema.FOLDS_CSV).unlink(), ["04_split"]),
    "a table cut": (lambda p: os.truncate(p.run_dir / schema.FOLDS_CSV, 3), ["04_split"]),
    "a table touched": (lambda p: touch(p.run_dir / schema.FOLDS_CSV), []),
    "a bit of a checkpoint": (
        lambda p: p.damage(f"{schema.CHECKPOINTS_DIR}/best.ckpt"),
        ["06_detector"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_runs_again_after_a_change(project: Project, change: str):
    assert project.run() == NAMES
    edit, again = CHANGES[change]
    edit(project)
    assert project.run() == again
    assert project.run() == []


@pytest.mark.parametrize(
    "named", ["w0.pth", "./w0.pth", "w{fold}.pth", ["w0.pth"], ["wx.pth", "w{fold}.pth"]]
)
def test_a_file_that_a_parameter_names_counts_by_its_content(project: Project, named: str | list[str]):
    key = "others" if isinstance(named, list) else "weights"
    project.values[key] = named
    assert project.run() == NAMES
    touch(project.root / "w0.pth")
    assert project.run() == []
    (project.root / "w0.pth").write_text("better")
    assert project.run() == ["06_detector"]
    if "{fold}" not in str(named):
        (project.root / "w7.pth").write_text("of no fold that is asked for")
        project.values[key] = f"{project.root}/w0.pth" if key == "weights" else [f"{project.root}/w0.pth"]
        assert project.run() == [], "the same file, written in another way"


def test_texts_that_are_no_path_stop_nothing(project: Project):
    for text in ("", "\0", "x" * 5000, "a{fold}" * 3, "{fold}", "[", "~nobody/x"):
        assert inputs._named_files(text) == []


def test_a_run_inside_the_data_folder_is_up_to_date(project: Project):
    project.values["run_dir"] = "data/train/run"
    assert project.run() == NAMES
    assert project.run() == []
    path = project.root / "notebooks" / "01_eda.py"
    path.write_text(path.read_text().replace("folder with train.csv, train/", "any files"))
    assert project.run() == ["01_eda"]
    assert project.run() == []


DAMAGED = [
    ("04", schema.TRAIN_FULL_CSV),
    ("06", schema.CONSENSUS_CSV),
    ("06", f"{schema.IMAGES_DIR}/shard-0.h5"),
]


@pytest.mark.parametrize(("first", "artefact"), DAMAGED)
def test_damage_is_refused_before_anything_starts(
    project: Project, monkeypatch: pytest.MonkeyPatch, first: str, artefact: str
):
    monkeypatch.setattr(manifest, "LARGE_BYTES", 10)  # so that a shard counts as large
    project.run()
    project.damage(artefact)
    monkeypatch.setattr(runner, "execute", None)
    text = rf"{artefact}: is not what notebook {artefact.split('/')[0]} wrote: damaged or changed since"
    with pytest.raises(DataError, match=text):
        project.run(first=first, last=first, force=True)
    (project.run_dir / artefact).unlink()
    with pytest.raises(DataError, match=rf"{artefact}: is missing, though notebook \w+ wrote it"):
        project.run(first=first, last=first, force=True)


def test_large_files_are_read_before_they_are_used_and_made_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "LARGE_BYTES", 10)
    project.run()
    project.damage(f"{schema.IMAGES_DIR}/shard-0.h5")
    assert project.run() == [], "nobody uses it, so 18 GB are not read"
    said: list[str] = []
    project.values["name"] = "other"
    assert project.run(say=said.append) == ["02_preprocess", "06_detector"]
    assert any("shard-0.h5: damaged or changed since it was written, so it is made" in line for line in said)


def test_damage_that_comes_back_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch):
    """A disk that spoils what is written must not keep the chain in a circle."""
    project.run()

    def spoil(notebook: notebooks.Notebook, values: object, folder: Path, log: object = None) -> float:
        if notebook.name == "04_split":
            project.damage("../run/01_eda/train_full_dataset.csv")
        return write_files(notebook, values, folder)

    monkeypatch.setattr(runner, "execute", spoil)
    with pytest.raises(DataError, match=r"consensus\.csv|train_full_dataset\.csv"):
        for _ in range(5):
            project.damage(schema.CONSENSUS_CSV)
            project.run(first="04", force=True)


def test_without_a_manifest_a_table_is_used_as_it_is(project: Project):
    """Whoever steps through the notebooks by hand has none."""
    project.run()
    (project.run_dir / "04_split" / "manifest.json").unlink()
    project.damage(schema.CONSENSUS_CSV)
    assert project.run(first="06") == ["06_detector"]


def test_tables_of_an_earlier_execution_go_whatever_the_clock_says(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    project.run()
    old = project.run_dir / "01_eda" / "left_out_rows.csv"
    old.write_text("of a run with other data")
    os.utime(old, (2**33, 2**33))

    def in_the_past(notebook: notebooks.Notebook, values: object, folder: Path, log: object = None) -> float:
        write_files(notebook, values, folder)
        for path in folder.iterdir():
            if path.is_file() and path != old:
                os.utime(path, (0, 0))
        return 1.0

    monkeypatch.setattr(runner, "execute", in_the_past)
    (project.run_dir / schema.TRAIN_FULL_CSV).unlink()
    assert project.run(last="01") == ["01_eda"]
    assert not old.exists()
    assert (project.run_dir / schema.TRAIN_FULL_CSV).is_file()


def test_notebooks_agree_on_what_cannot_change_results(project: Project):
    path = project.root / "notebooks" / "02_preprocess.py"
    path.write_text(path.read_text().replace("# machine: folder of the run", "# folder of the run"))
    with pytest.raises(ParameterError, match=r"run_dir is marked `machine:` in one of 01_eda, 02_prep"):
        chain.load_parameters(_empty(project.root), notebooks=project.root / "notebooks")


def _empty(root: Path) -> Path:
    (root / "params" / "a.yaml").touch()
    return root / "params" / "a.yaml"


def test_only_where_and_how_fast_is_marked():
    """A mark on a parameter that can change results would leave stale ones standing."""
    marked = {n for nb in chain.read_notebooks() for n, d in nb.parameters.items() if d.machine}
    recipe = {"accelerator", "devices", "num_nodes", "num_workers", "cache_mib", "compile_backbone"}
    recipe |= {"pause_minutes"}
    assert marked == {"run_dir", "data_dir", "jobs", "scheduler", "threads", "tensorboard", *recipe}


def test_each_notebook_declares_what_it_reads_of_the_data():
    for notebook in chain.read_notebooks():
        text = notebook.path.read_text()
        for name, read in {
            "train.csv": "data / schema.TRAIN_TABLE",
            "sample_submission.csv": 'data / "sample_submission.csv"',
            "test_truth.csv": "read_test_truth(data",
        }.items():
            assert (read in text) == (name in notebook.data), notebook.name
        assert ("read_classes(" in text) == ("classes.csv" in notebook.data), notebook.name
        assert ("train_meta.csv" in notebook.data) == ("read_sizes(" in text), notebook.name
        assert ("find_images" in text) == ("train/" in notebook.data), notebook.name


def test_a_manifest_holds_what_it_says(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a")
    manifest.write_manifest(tmp_path, {"parameters": {"x": 1.5}}, seconds=1.0, peak_memory_mb=2.0)
    assert manifest.read_manifest(tmp_path)["parameters"] == {"x": 1.5}
    path = tmp_path / manifest.MANIFEST
    whole = path.read_text()
    for old, new in (("1.5", "1.6"), ('"seconds"', '"sekonds"'), ("seal", "meal")):
        path.write_text(whole.replace(old, new))
        assert manifest.read_manifest(tmp_path) is None
    path.write_text(json.dumps([1]))
    assert manifest.read_manifest(tmp_path) is None
