"""Kernels as they are written: Kaggle's rules, the notebook that carries the project, what is mounted."""

from __future__ import annotations

import base64
import inspect
import io
import json
import re
import shutil
import tarfile
import typing
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest

from cxr import kaggle, schema
from cxr.cli import push
from cxr.dicom import load_radiograph
from cxr.errors import DataError, DiskError, ParameterError
from cxr.kaggle import budget, inputs, kit, layout, metadata, opening
from cxr.kaggle.metadata import Listing, title_slug
from cxr.preprocess import find_images
from cxr.survey import read_sizes

ME = Listing("CXR abnormality detector", user="someone")
VALUES = {"image_size": 512, "weights": "", "accelerator": "auto", "train_folds": [0]}


def write(folder: Path, listing: Listing = ME, **settings: object) -> tuple[dict, str]:
    path = kaggle.write_kernel(VALUES, folder, listing, kaggle.Settings(**settings))
    written = json.loads(path.read_text())
    notebook = nbformat.read(folder / written["code_file"], 4)
    nbformat.validate(notebook)
    return written, "\n".join(cell.source for cell in notebook.cells)


# -- what Kaggle is told -----------------------------------------------------------------------------


def test_metadata_for_a_private_kernel_on_two_gpus_without_internet(tmp_path: Path):
    listing = Listing("CXR abnormality detector", user="someone", datasets=("someone/weights",))
    written, _ = write(tmp_path, listing)
    assert written["id"] == "someone/cxr-abnormality-detector"
    assert written["code_file"] == "cxr-abnormality-detector.ipynb"
    assert written["machine_shape"] == "NvidiaTeslaT4"
    assert written["enable_gpu"] is True
    assert written["enable_internet"] is False
    assert written["is_private"] is True
    assert written["competition_sources"] == [kaggle.COMPETITION]
    assert written["dataset_sources"] == ["someone/weights"]
    assert written["kernel_sources"] == []


def test_what_is_mounted_and_asked_for_stands_in_the_metadata():
    told = Listing(
        "My kernel 2", user="me", competition="other-comp", datasets=("a/one", "a/one", "b/two/3"),
        notebooks=("me/earlier",), accelerator="",
    ).to_dict()  # fmt: skip
    assert told["competition_sources"] == ["other-comp"]
    assert told["dataset_sources"] == ["a/one", "b/two/3"]
    assert told["kernel_sources"] == ["me/earlier"]
    assert told["enable_gpu"] is False
    assert "machine_shape" not in told


@pytest.mark.parametrize(
    "title", ["cxr", "x" * 51, "Détecteur", "CXR: fold 0", "cxr  two spaces", "cxr fold-", ""]
)
def test_titles_that_kaggle_refuses_or_changes(title: str):
    with pytest.raises(ParameterError, match="title"):
        Listing(title)


def test_a_title_has_one_slug():
    assert title_slug("CXR fold-0 v2", shortest=5) == "cxr-fold-0-v2"
    assert title_slug("x" * 50, shortest=5) == "x" * 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ("weights",)}, "data set 'weights': expected owner/slug"),
        ({"datasets": ("own/my weights",)}, "in lower case; perhaps own/my-weights"),
        ({"datasets": ("Own/Weights",)}, "perhaps own/weights"),
        ({"datasets": ("/",)}, "expected owner/slug"),
        ({"datasets": ("a/b/c/d",)}, "expected owner/slug"),
        ({"datasets": ("own/" + "x" * 51,)}, "3 to 50 characters, got 51"),
        ({"notebooks": ("me/abcd",)}, "5 to 50 characters, got 4"),
        ({"notebooks": ("me/abcde/2",)}, "notebook 'me/abcde/2': expected owner/slug"),
        ({"notebooks": ("me/cxr-abnormality-detector",), "user": "me"}, "its own output; give --title"),
        ({"competition": "Some Competition"}, "expected its slug"),
        ({"user": "Some One"}, "user 'Some One'"),
        ({"datasets": ("me/foo", "you/foo")}, "me/foo and you/foo: two inputs with one slug"),
        ({"accelerator": "NvidiaTeslaP100"}, "compute capability 6.0.* take NvidiaTeslaT4"),
        ({"accelerator": "T4"}, "accelerator: expected one of NvidiaTeslaT4, "),
    ],
)
def test_names_that_kaggle_refuses(changes: dict, message: str):
    with pytest.raises(ParameterError, match=message):
        Listing("CXR abnormality detector", **changes)


def test_a_data_set_s_title_has_at_least_six_characters():
    assert metadata.dataset_metadata("CXR detectors", "me")["id"] == "me/cxr-detectors"
    with pytest.raises(ParameterError, match="at least 6 characters"):
        metadata.dataset_metadata("short", "me")


def test_user_comes_from_the_client_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert metadata.configured_user() == kaggle.NO_USER
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text('{"username": "me", "key": "k"}')
    assert metadata.configured_user() == "me"
    monkeypatch.setenv("KAGGLE_USERNAME", "other")
    assert metadata.configured_user() == "other"


def test_the_command_s_defaults_are_those_of_the_library():
    given = {
        name: one.default for name, one in inspect.signature(push.write_kaggle_kernel).parameters.items()
    }
    assert given["machine"] == kaggle.DEFAULT_ACCELERATOR
    assert given["competition"] == kaggle.COMPETITION
    assert given["session_minutes"] == kaggle.SESSION_MINUTES
    hints = typing.get_type_hints(push.write_kaggle_kernel, include_extras=True).values()
    told = (typing.get_args(one)[1].help for one in hints if typing.get_origin(one) is typing.Annotated)
    helps = " ".join(filter(None, told))
    assert kaggle.TITLE in helps
    assert kit.TITLE in helps
    assert kaggle.INFERENCE_TITLE.removeprefix("CXR abnormality ") in helps


# -- the notebook ------------------------------------------------------------------------------------


def test_the_notebook_carries_package_and_notebooks(tmp_path: Path):
    _, source = write(tmp_path)
    text = re.search(r'ARCHIVE = """\n(.*?)"""', source, re.DOTALL).group(1)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as archive:
        names = archive.getnames()
    assert {"cxr/schema.py", "cxr/kaggle/child.py", "cxr/report.html.j2", "notebooks/01_eda.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert "image_size: 512" in source
    assert "data_dir:" not in source, "where the data are is found on Kaggle"
    assert "training.begin" in source


def test_same_project_same_bytes(tmp_path: Path):
    assert write(tmp_path / "a")[1] == write(tmp_path / "b")[1]


def test_a_kernel_too_large_for_kaggle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kaggle.folder, "LARGEST_SOURCE", 1000)
    with pytest.raises(ParameterError, match="Kaggle takes less than 1,000"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "torchvision"}, "a kernel has no internet"),
        ({"weights": "timm"}, "weights: timm downloads"),
        ({"weights": "phantom"}, "a kernel carries the code alone"),
        ({"weights": "models/a.pth"}, "weights: models/a.pth is no path on Kaggle"),
        ({"weights": "/kaggle/input/other/a.pth"}, "is in no data set that is mounted"),
        ({"checkpoints": ["/home/me/fold{fold}/best.ckpt"]}, "checkpoints: .* is no path on Kaggle"),
        ({"oof_detections": "outputs/a.csv"}, "oof_detections: "),
        ({"test_detections": "outputs/a.csv"}, "test_detections: "),
    ],
)
def test_files_that_no_kernel_can_open_are_refused_before_it_is_pushed(
    values: dict, message: str, tmp_path: Path
):
    listing = Listing("CXR abnormality detector", user="me", datasets=("me/weights",))
    with pytest.raises(ParameterError, match=message):
        kaggle.write_kernel(values, tmp_path, listing)
    kaggle.write_kernel({"weights": "/kaggle/input/weights/a.pth"}, tmp_path, listing)
    kaggle.write_kernel({"weights": "/kaggle/input/datasets/me/weights/a.pth"}, tmp_path, listing)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_session_takes_time(minutes: float):
    with pytest.raises(ParameterError, match="session_minutes: expected more than 0"):
        kaggle.Settings(session_minutes=minutes)


# -- what is mounted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["slug", "competitions/slug", "datasets/owner/slug", "notebooks/owner/slug"]
)
def test_finds_the_input_wherever_kaggle_mounts_it(place: str, tmp_path: Path):
    (tmp_path / place).mkdir(parents=True)
    assert kaggle.find_input(tmp_path, "slug") == tmp_path / place


def test_names_what_is_mounted_instead(tmp_path: Path):
    for place in ("other", "competitions/comp", "datasets/me/set"):
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(ParameterError, match="no input 'slug'; mounted are comp, set, other"):
        kaggle.find_input(tmp_path, "slug")
    with pytest.raises(ParameterError, match="mounted are none"):
        kaggle.find_input(tmp_path / "absent", "slug")


@pytest.mark.parametrize("place", ["weights", "datasets/me/weights"])
@pytest.mark.parametrize("given", ["weights", "datasets/me/weights"])
def test_a_file_has_one_path_in_all_sessions(place: str, given: str, tmp_path: Path):
    root, home = tmp_path / "input", tmp_path / "links"
    for fold in (0, 1):
        file = root / place / f"fold{fold}" / "best.ckpt"
        file.parent.mkdir(parents=True)
        file.write_text(str(fold))
        file.with_name("best.ckpt.sha256").write_text("a" * 64)
    values = {"weights": f"/kaggle/input/{given}/fold{{fold}}/best.ckpt", "checkpoints": []}
    lines: list[str] = []
    found = inputs.localise(values, root, home, folds=[0, 1], say=lines.append)
    assert found["weights"] == str(home / given / "fold{fold}" / "best.ckpt")
    assert [Path(found["weights"].replace("{fold}", f)).read_text() for f in "01"] == ["0", "1"]
    assert (home / given / "fold0" / "best.ckpt.sha256").is_file()
    assert len(lines) == 2
    assert "sha256 5feceb66" in lines[0]
    with pytest.raises(ParameterError, match=r"fold2/best\.ckpt: no such file"):
        inputs.localise(values, root, home, folds=[2], say=lines.append)


def test_a_list_of_files_stays_a_list(tmp_path: Path):
    for name in ("a.ckpt", "b.ckpt"):
        (tmp_path / "input" / "kit").mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / "kit" / name).touch()
    given = {"checkpoints": ["/kaggle/input/kit/a.ckpt", "/kaggle/input/kit/b.ckpt"]}
    found = inputs.localise(given, tmp_path / "input", tmp_path / "l", folds=[0], say=lambda line: None)
    assert found["checkpoints"] == [str(tmp_path / "l" / "kit" / name) for name in ("a.ckpt", "b.ckpt")]


def test_detections_come_with_their_record(tmp_path: Path):
    put(tmp_path / "input" / "first", "val_predictions.csv", "val_predictions.json")
    given = {"oof_detections": "/kaggle/input/first/val_predictions.csv"}
    found = inputs.localise(given, tmp_path / "input", tmp_path / "l", folds=[0], say=lambda line: None)
    assert Path(str(found["oof_detections"])).with_suffix(".json").is_file()


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_copies_take_the_competition_s_tables(tmp_path: Path):
    root = tmp_path / "input"
    put(root / "comp", "train/a.dicom", "test/b.dicom", "train.csv", "sample_submission.csv")
    put(
        root / "datasets" / "me" / "pngs" / "inside",
        "train/a.png",
        "test/b.png",
        "train_meta.csv",
        "test_meta.csv",
    )
    data = inputs.data_folder(root, tmp_path / "data", competition="comp", copies="me/pngs")
    assert [path.name for path in (data / "train").iterdir()] == ["a.png"]
    assert {"train.csv", "sample_submission.csv", "train_meta.csv", "test_meta.csv"} <= {
        p.name for p in data.iterdir()
    }
    assert inputs.data_folder(root, tmp_path / "data", competition="comp") == root / "comp"


def test_copies_find_the_sizes_of_their_originals(tmp_path: Path, phantom_dir: Path):
    root, options = tmp_path / "input", {"competition": "comp", "copies": "me/pngs", "train": False}
    root.mkdir()
    shutil.copytree(phantom_dir, root / "comp")
    copies = root / "datasets" / "me" / "pngs" / "test"
    copies.mkdir(parents=True)
    for path in find_images(phantom_dir / "test"):
        cv2.imwrite(str(copies / f"{path.stem}.png"), np.zeros((8, 8), np.uint8))
    data = inputs.data_folder(root, tmp_path / "data", **options)
    sizes = read_sizes(data, "test")
    assert sizes is not None
    for image_id, rows, columns in sizes.itertuples(index=False):
        assert load_radiograph(phantom_dir / "test" / f"{image_id}.dicom").original_size == (rows, columns)
    put(root / "datasets" / "you" / "sizes", "test_meta.csv")
    data = inputs.data_folder(root, tmp_path / "data", **options)
    assert (data / "test_meta.csv").resolve() == root / "datasets" / "you" / "sizes" / "test_meta.csv"
    shutil.rmtree(root / "datasets" / "you")
    next((root / "comp" / "test").iterdir()).unlink()
    with pytest.raises(DataError, match=r"1 of 6 images of test/ are copies .* in the copies' pixels"):
        inputs.data_folder(root, tmp_path / "data", **options)


def test_an_input_is_that_of_its_owner(tmp_path: Path):
    put(tmp_path / "datasets" / "other" / "kit", "a.ckpt")
    with pytest.raises(ParameterError, match="no input 'me/kit'; mounted are kit"):
        inputs.find_input(tmp_path, "me/kit")
    with pytest.raises(ParameterError, match="no input 'me/kit'"):
        inputs.resolve(tmp_path, ("datasets", "me", "kit", "a.ckpt"))
    put(tmp_path / "datasets" / "me" / "kit", "a.ckpt")
    assert inputs.find_input(tmp_path, "me/kit/3").parent.name == "me"
    assert inputs.resolve(tmp_path, ("datasets", "me", "kit", "a.ckpt")).is_file()


def test_a_data_folder_without_images_is_named(tmp_path: Path):
    put(tmp_path / "comp", "train.csv", "train/a.dicom")
    with pytest.raises(DataError, match="expected test of the competition comp"):
        inputs.data_folder(tmp_path, tmp_path / "data", competition="comp")
    put(tmp_path / "pngs", "readme.txt")
    with pytest.raises(DataError, match=r"expected a folder test/ of images in the data set"):
        inputs.data_folder(tmp_path, tmp_path / "data", competition="comp", copies="me/pngs")


def test_a_run_to_continue_is_found_by_its_parameters(tmp_path: Path):
    put(tmp_path / "notebooks" / "me" / "first", "submission.csv", "run/parameters.yaml", "run/01_eda/a.csv")
    assert inputs.find_run(tmp_path, "first") == tmp_path / "notebooks" / "me" / "first" / "run"
    put(tmp_path / "datasets" / "me" / "empty", "other.csv")
    with pytest.raises(DataError, match=r"expected one run to continue .* found none"):
        inputs.find_run(tmp_path, "empty")


# -- the session -------------------------------------------------------------------------------------


def test_what_is_kept_holds_no_images_and_no_links(tmp_path: Path):
    run, kept = tmp_path / "temp" / "run", tmp_path / "working" / "run"
    layout.lay_out(run, kept, keep_images=False)
    put(
        run,
        "02_preprocess/images/shard-00000.h5",
        "02_preprocess/failures.csv",
        "06_detector/checkpoints/a.ckpt",
    )
    assert (kept / "06_detector" / "checkpoints" / "a.ckpt").is_file(), "kept as soon as it is written"
    layout.keep(run, kept)
    assert (kept / "02_preprocess" / "failures.csv").is_file()
    assert not [path for path in kept.rglob("*") if path.is_symlink() or path.suffix == ".h5"]


@pytest.mark.parametrize("keep_images", [True, False])
def test_an_earlier_run_is_taken_over_from_where_nothing_can_be_written(keep_images: bool, tmp_path: Path):
    earlier, run = tmp_path / "input" / "run", tmp_path / "temp" / "run"
    put(earlier, "02_preprocess/images/shard-00000.h5", "02_preprocess/images/plan.json", "06_detector/a.csv")
    for path in earlier.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    layout.lay_out(run, tmp_path / "working" / "run", keep_images=keep_images)
    layout.take_over(earlier, run, link_images=not keep_images)
    shard = run / "02_preprocess" / "images" / "shard-00000.h5"
    assert shard.is_file()
    assert shard.is_symlink() != keep_images
    (run / "06_detector" / "a.csv").write_text("writable")
    (run / "02_preprocess" / "images" / "plan.json").write_text("writable")


def test_images_that_were_not_kept_are_to_be_made_and_not_taken_for_damaged(tmp_path: Path):
    earlier, run = tmp_path / "earlier", tmp_path / "temp" / "run"
    put(earlier, "02_preprocess/manifest.json", "02_preprocess/failures.csv", "03_features/manifest.json")
    layout.lay_out(run, tmp_path / "working" / "run", keep_images=False)
    layout.take_over(earlier, run, link_images=True)
    assert not (run / "02_preprocess" / "manifest.json").exists()
    assert (run / "02_preprocess" / "failures.csv").exists()
    assert (run / "03_features" / "manifest.json").exists()


def test_time_is_shared_so_that_all_end_up_alike():
    assert budget.share(90, [0, 0, 0]) == 30
    assert budget.share(100, [100, 0]) == pytest.approx(100)
    assert budget.share(40, [100, 0]) == pytest.approx(40)
    assert budget.share(120, [100, 0]) == pytest.approx(110)
    assert budget.share(50, [200]) == 250


def test_what_is_left_is_said_honestly():
    needs = budget.Needs(100, 60.0, "words", 400.0, "words", 30.0)
    last = [needs.lines(kaggle.Settings(session_minutes=m, pause=p), continued=False)[-1] for m, p in (
        (500.0, False), (300.0, False), (300.0, True), (80.0, False),
    )]  # fmt: skip
    assert last[0] == "of 500 min 410 min are left for training, enough"
    assert last[1].endswith("210 min are left for training; its schedule is brought down in that time")
    assert last[2].endswith("210 min are left for training; it pauses at the end, to be continued")
    assert last[3].endswith("nothing is left for training: give more session_minutes")


def test_images_that_will_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        opening.shutil, "disk_usage", lambda path: opening.shutil._ntuple_diskusage(0, 0, 10**12)
    )
    settings = kaggle.Settings(root=str(tmp_path), keep_images=True)
    opening.check_room(settings, images=15000, image_size=1024)
    with pytest.raises(DiskError, match=r"18,000 images of 1024 px need about 20\.9 GB, 20\.0 GB are free"):
        opening.check_room(settings, images=18000, image_size=1024)
    opening.check_room(settings, images=18000, image_size=1024, share=0.87)  # as radiographs are
    opening.check_room(kaggle.Settings(root=str(tmp_path)), images=18000, image_size=1024)


def test_the_first_submission_is_valid_and_a_bad_one_does_not_replace_it(tmp_path: Path, phantom_dir: Path):
    settings = kaggle.Settings(root=str(tmp_path))
    ids = opening.test_ids(phantom_dir)
    opening.write_fallback(settings, phantom_dir, ids)
    lines = (settings.working / "submission.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["14 1 0 0 1 1"] * len(ids)
    bad = tmp_path / "bad.csv"
    pd.DataFrame({schema.IMAGE_ID: ["other"], "PredictionString": ["14 1 0 0 1 1"]}).to_csv(bad, index=False)
    assert not opening.attempt("submission", lambda: opening.publish(settings, phantom_dir, bad))
    assert (settings.working / "submission.csv").read_text().splitlines() == lines


def test_an_error_of_the_first_minute_is_one_line():
    with pytest.raises(SystemExit, match=r"^cxr: ParameterError: no such thing$"), opening.one_line():
        raise ParameterError("no such\nthing")


def test_progress_is_thinned_and_other_lines_stay():
    lines = ["epoch 1\n", "\n", "1/9 steps, 1.0/s, 0:08 left\n", "2/9 steps, 1.0/s, 0:07 left\n", "epoch 2\n"]
    assert list(opening._thinned(lines)) == ["epoch 1", "1/9 steps, 1.0/s, 0:08 left", "epoch 2"]
