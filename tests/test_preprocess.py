"""Folders in, a store out: the same whatever happens on the way, and no file lost or blamed wrongly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import chest, write_dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from cxr import schema
from cxr.dicom import load_radiograph, reasons
from cxr.errors import DataError, ParameterError, RunError
from cxr.files import is_temporary, temporary_beside
from cxr.preprocess import FAILURE_COLUMNS, batch, find_images, preprocess, workers
from cxr.preprocess.plan import RECIPE, Settings, extend
from cxr.preprocess.sources import Source, image_id_of
from cxr.store import ImageStore

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("shared_readers")


def fill(folder: Path, count: int = 20, prefix: str = "i") -> Path:
    folder.mkdir(parents=True)
    for k in range(count):
        syntax = {"syntax": JPEG2000Lossless} if k % 5 == 0 else {}
        write_dicom(folder / f"{prefix}{k:03d}.dicom", chest(60 + k, 50, seed=k), **syntax)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """20 training files, 3 of them bad, and 5 test files, one of them a PNG named .dicom."""
    root = tmp_path_factory.mktemp("data")
    train, test = fill(root / "train"), fill(root / "test", 5, "t")
    (train / "i003.dicom").write_bytes(b"")
    (train / "i007.dicom").write_bytes(b"text " * 100)
    cut = train / "i010.dicom"
    cut.write_bytes(cut.read_bytes()[:-800])
    Image.fromarray(chest(bits=8)).save(test / "t004.dicom", "PNG")
    return {"train": train, "test": test}


def content(out: Path) -> dict[str, object]:
    """All that a run leaves: tables, ids and pixels."""
    opened = ImageStore(out)
    assert opened.verify() == []
    tables = {
        name: (out / name).read_text() for name in ("dicom_metadata.csv", "failures.csv", "images/index.csv")
    }
    return tables | {i: opened[i].tobytes() for i in opened.ids}


@pytest.fixture(scope="module")
def undisturbed(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("undisturbed")
    result = preprocess(data, out, image_size=48, jobs=1, max_failed_fraction=0.2)
    assert (result.stored, result.skipped, result.failed) == (22, 0, 3)
    return content(out)


# -- the result --------------------------------------------------------------------------------------


def test_tables(data: dict[str, Path], tmp_path: Path):
    seen: list[tuple[int, int]] = []
    preprocess(
        data, tmp_path, image_size=48, jobs=2, max_failed_fraction=0.2, progress=lambda *x: seen.append(x)
    )
    assert seen[0] == (0, 25) and seen[-1] == (25, 25) and seen == sorted(seen)
    opened = ImageStore(tmp_path)
    assert len(opened) == 22 and opened.ids_of("test") == [f"t{k:03d}" for k in range(5)]
    assert max(opened["i001"].shape) == 48
    assert opened.original_size("i001") == (61, 50)
    headers = pd.read_csv(tmp_path / "dicom_metadata.csv", dtype=str, keep_default_na=False)
    assert list(headers.columns) == ["image_id", "split", *schema.HEADER_COLUMNS]
    assert headers["image_id"].tolist() == opened.ids
    assert "Nobody" not in (tmp_path / "dicom_metadata.csv").read_text()
    failures = pd.read_csv(tmp_path / "failures.csv")
    assert list(failures.columns) == FAILURE_COLUMNS
    assert failures[["image_id", "file", "reason"]].to_numpy().tolist() == [
        ["i003", "i003.dicom", reasons.EMPTY],
        ["i007", "i007.dicom", reasons.NOT_AN_IMAGE],
        ["i010", "i010.dicom", reasons.TRUNCATED],
    ]


@pytest.mark.parametrize("jobs", [1, 3])
def test_number_of_jobs_changes_nothing(
    data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path, jobs: int
):
    preprocess(data, tmp_path, image_size=48, jobs=jobs, max_failed_fraction=0.2)
    assert content(tmp_path) == undisturbed


def test_gzip_holds_the_same_pixels(data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path):
    preprocess(data, tmp_path, image_size=48, jobs=1, compression="gzip", max_failed_fraction=0.2)
    opened = ImageStore(tmp_path)
    assert all(opened[i].tobytes() == undisturbed[i] for i in opened.ids)
    assert opened.index["nbytes"].sum() < (opened.index["height"] * opened.index["width"]).sum()


def test_phantom(phantom_dir: Path, tmp_path: Path):
    result = preprocess({s: phantom_dir / s for s in ("train", "test")}, tmp_path, image_size=96, jobs=2)
    assert (result.stored, result.failed) == (22, 0)
    assert result.summary.startswith("stored 22, skipped 0 (done before), failed 0 in ")


@pytest.mark.real
def test_real_dicoms(real_dir: Path, tmp_path: Path):
    result = preprocess({"all": real_dir / "dicom"}, tmp_path, image_size=256, jobs=2, max_failed_fraction=0)
    assert (result.stored, result.failed) == (11, 0)


RECIPE_PIXELS = Path(__file__).with_name("recipe_pixels.json")


def recipe_pixels(folder: Path) -> dict[str, list[list[int]]]:
    """Small pictures made from a file of each kind that takes a way of its own to its pixels."""
    curve = Dataset()
    curve.LUTDescriptor, curve.LUTData = [4096, 0, 8], bytes(np.linspace(0, 255, 4096).astype(np.uint8))
    curve["LUTData"].VR, curve["LUTDescriptor"].VR = "OW", "US"
    kinds = {
        "windowed": {"WindowCenter": "1800", "WindowWidth": "2400"},
        "no window": {"WindowCenter": None, "WindowWidth": None},
        "insane window": {"WindowCenter": "1", "WindowWidth": "1"},
        "negative": {"PhotometricInterpretation": "MONOCHROME1"},
        "rescaled": {"RescaleSlope": "2", "RescaleIntercept": "-1000", "VOILUTFunction": "SIGMOID"},
        "JPEG 2000": {"syntax": JPEG2000Lossless},
        "look-up table": {"VOILUTSequence": Sequence([curve])},
    }
    made = {kind: write_dicom(folder / f"{kind}.dcm", **options) for kind, options in kinds.items()}
    Image.fromarray(chest() * 3).save(folder / "16 bit.png")
    made["16 bit picture"] = folder / "16 bit.png"
    return {kind: load_radiograph(path, longest_side=16).pixels.tolist() for kind, path in made.items()}


def test_other_pixels_need_another_recipe(tmp_path: Path):
    """If this fails on purpose, count `plan.RECIPE` up and run this file as a script."""
    pinned = json.loads(RECIPE_PIXELS.read_text())
    assert pinned["recipe"] == RECIPE, "RECIPE was counted up: write recipe_pixels.json anew"
    made = recipe_pixels(tmp_path)
    assert made.keys() == pinned["pixels"].keys()
    for kind, pixels in made.items():
        # One grey level is left to the rounding of other machines.
        assert np.abs(np.subtract(pixels, pinned["pixels"][kind])).max() <= 1, kind


# -- again -------------------------------------------------------------------------------------------


def test_second_run_skips_and_retries_failures(
    data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path
):
    for stored, skipped in ((22, 0), (0, 22)):
        result = preprocess(data, tmp_path, image_size=48, jobs=1, max_failed_fraction=0.2)
        assert (result.stored, result.skipped, result.failed) == (stored, skipped, 3)
        assert content(tmp_path) == undisturbed


def test_repaired_and_new_and_changed_files(tmp_path: Path):
    folder, out = fill(tmp_path / "in", 9), tmp_path / "out"
    (folder / "i002.dicom").write_bytes(b"")
    assert preprocess({"a": folder}, out, image_size=32, jobs=1, max_failed_fraction=0.2).failed == 1
    write_dicom(folder / "i002.dicom", chest(50, 50))
    write_dicom(folder / "i004.dicom", chest(41, 82))
    write_dicom(folder / "zz.dicom", chest(50, 60))
    result = preprocess({"a": folder}, out, image_size=32, jobs=1)
    assert (result.stored, result.skipped, result.failed) == (3, 7, 0)
    opened = ImageStore(out)
    assert opened.verify() == [] and len(opened) == 10
    assert opened.original_size("i004") == (41, 82)
    assert len(pd.read_csv(out / "failures.csv")) == 0
    assert len(list((out / "images").glob("shard-00000*"))) == 1, "the shard it replaces is gone"


def without_layout(out: Path) -> dict[str, object]:
    """What a run leaves but for the place of each image in the shards."""
    index = ImageStore(out).index.drop(columns=["shard", "offset"])
    return content(out) | {"images/index.csv": index.to_csv(index=False)}


def move(root: Path, change: str) -> None:
    """Change which file an image id belongs to, or take files away."""
    if change == "renamed":
        (root / "train" / "i1.dicom").rename(root / "train" / "i1.dcm")
    elif change == "moved":
        (root / "train" / "i1.dicom").rename(root / "test" / "i1.dicom")
    elif change == "winner gone":
        (root / "train" / "i2.dcm").unlink()
    elif change == "gone":
        (root / "train" / "i0.dicom").unlink()
    else:
        for name in ("i0.dicom", "i1.dicom", "i2.dcm", "i2.dicom"):
            (root / "train" / name).unlink()
        write_dicom(root / "train" / "other.dicom", chest(50, 60))


@pytest.mark.parametrize("change", ["renamed", "moved", "winner gone", "gone", "another data set"])
def test_files_that_move_or_go(tmp_path: Path, change: str):
    folders = {split: tmp_path / split for split in ("train", "test")}
    for folder in folders.values():
        folder.mkdir()
    for number, name in enumerate(
        ("train/i0.dicom", "train/i1.dicom", "train/i2.dcm", "train/i2.dicom", "test/t.dcm")
    ):
        write_dicom(tmp_path / name, chest(50 + number, 50))
    again, fresh = tmp_path / "again", tmp_path / "fresh"
    preprocess(folders, again, image_size=32, jobs=1, max_failed_fraction=1.0)
    move(tmp_path, change)
    result = preprocess(folders, again, image_size=32, jobs=1, max_failed_fraction=1.0)
    undisturbed = preprocess(folders, fresh, image_size=32, jobs=1, max_failed_fraction=1.0)
    assert without_layout(again) == without_layout(fresh)
    assert result.stored + result.skipped == undisturbed.stored
    assert result.dropped == {"gone": 1, "another data set": 3}.get(change, 0)
    assert (", dropped" in result.summary) == (result.dropped > 0)


def test_a_damaged_image_gets_no_new_checksum(tmp_path: Path):
    folder, out = fill(tmp_path / "in", 8), tmp_path / "out"
    (folder / "i002.dicom").write_bytes(b"")
    preprocess({"a": folder}, out, image_size=32, jobs=1, max_failed_fraction=0.5)
    opened = ImageStore(out)
    row, whole = opened.index.set_index("image_id").loc["i005"], opened["i005"]
    shard = out / "images" / row["shard"]
    damaged = bytearray(shard.read_bytes())
    damaged[row["offset"] + 100] ^= 16
    shard.write_bytes(damaged)
    write_dicom(folder / "i002.dicom", chest(50, 50))
    result = preprocess({"a": folder}, out, image_size=32, jobs=1)
    assert (result.stored, result.skipped, result.failed) == (8, 0, 0)
    assert ImageStore(out).verify() == [] and (ImageStore(out)["i005"] == whole).all()


@pytest.mark.parametrize("place", ["pixels", "records"])
def test_a_flipped_bit_in_a_finished_shard_is_found_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
):
    folder, out = fill(tmp_path / "in", 8), tmp_path / "out"
    preprocess({"a": folder}, out, image_size=32, jobs=1)
    before = content(out)
    row = ImageStore(out).index.set_index("image_id").loc["i005"]
    shard = out / "images" / row["shard"]
    stat, damaged = shard.stat(), bytearray(shard.read_bytes())
    damaged[row["offset"] + 100 if place == "pixels" else damaged.rindex(b"MONOCHROME2")] ^= 16
    shard.write_bytes(damaged)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = preprocess({"a": folder}, out, image_size=32, jobs=1)
    assert (result.stored, result.skipped, result.failed, result.damaged) == (8, 0, 0, 1)
    assert "1 damaged shards made again" in result.summary
    named = ": image i005" if place == "pixels" else ""
    assert f"{shard.name}: damaged (checksum differs){named}; all images of this shard" in caplog.text
    assert content(out) == before
    assert preprocess({"a": folder}, out, image_size=32, jobs=1).skipped == 8


def test_damaged_shard_is_made_again(data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path):
    preprocess(data, tmp_path, image_size=48, jobs=1, max_failed_fraction=0.2)
    shards = sorted((tmp_path / "images").glob("*.h5"))
    shards[0].write_bytes(shards[0].read_bytes()[:-5])
    shards[1].unlink()
    preprocess(data, tmp_path, image_size=48, jobs=1, max_failed_fraction=0.2)
    assert content(tmp_path) == undisturbed


def test_other_settings_are_refused(tmp_path: Path):
    folder, out = fill(tmp_path / "in", 3), tmp_path / "out"
    preprocess({"a": folder}, out, image_size=32, jobs=1)
    with pytest.raises(DataError, match="holds images of image size 32, asked for 48"):
        preprocess({"a": folder}, out, image_size=48, jobs=1)
    with pytest.raises(DataError, match="holds images of compression none, asked for gzip"):
        preprocess({"a": folder}, out, image_size=32, jobs=1, compression="gzip")
    assert preprocess({"a": folder}, out, image_size=48, jobs=1, restart="changed").stored == 3
    assert max(ImageStore(out)["i000"].shape) == 48
    assert preprocess({"a": folder}, out, image_size=48, jobs=1, restart="changed").skipped == 3
    assert preprocess({"a": folder}, out, image_size=48, jobs=1, restart="always").stored == 3


@pytest.mark.parametrize("last", ["shard-00000.h5", "plan.json"])
def test_a_restart_killed_half_way_mixes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str):
    folder, out = fill(tmp_path / "in", 3), tmp_path / "out"
    preprocess({"a": folder}, out, image_size=32, jobs=1)
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        preprocess({"a": folder}, out, image_size=48, jobs=1, restart="changed")
    assert preprocess({"a": folder}, out, image_size=48, jobs=1, restart="changed").stored == 3
    assert {max(ImageStore(out)[f"i{k:03d}"].shape) for k in range(3)} == {48}


def test_damaged_plan(tmp_path: Path):
    folder, out = fill(tmp_path / "in", 2), tmp_path / "out"
    preprocess({"a": folder}, out, image_size=32, jobs=1)
    (out / "images" / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: damaged"):
        preprocess({"a": folder}, out, image_size=32, jobs=1)
    assert preprocess({"a": folder}, out, image_size=32, jobs=1, restart="changed").stored == 2


def test_plan_grows_and_never_changes():
    def files(n: int) -> list[Source]:
        return [Source("train", f"{k}.dcm", str(k), 1, 1) for k in range(n)]

    settings = Settings(1024, "none")
    plan = extend([], files(20), settings)
    assert [len(batch) for batch in plan] == [8, 8, 4]
    grown = extend(plan, files(40), settings)
    assert grown[:3] == plan and sum(map(len, grown)) == 40
    assert max(map(len, extend([], files(18000), settings))) == 18
    assert max(map(len, extend([], files(90000), Settings(4096, "none")))) == 4


# -- bad input ---------------------------------------------------------------------------------------


def test_too_many_failures(data: dict[str, Path], tmp_path: Path):
    with pytest.raises(
        RunError, match=r"3 of 25 files failed, more than the 10% allowed; see .*failures\.csv"
    ):
        preprocess(data, tmp_path, image_size=48, jobs=1)
    assert len(ImageStore(tmp_path)) == 22, "all that could be read is kept"


def test_nothing_readable(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dicom").write_bytes(b"x")
    with pytest.raises(RunError, match="1 of 1 files failed"):
        preprocess({"a": tmp_path / "in"}, tmp_path / "out", jobs=1)
    assert len(ImageStore(tmp_path / "out")) == 0


def test_missing_and_empty_folders(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        preprocess({"a": tmp_path / "nowhere"}, tmp_path / "out", jobs=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image files"):
        preprocess({"a": tmp_path / "empty"}, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4}, "image_size must be from 16"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"compression": "zip"}, "compression must be one of none, gzip"),
        ({"max_failed_fraction": 2.0}, "max_failed_fraction must be from 0 to 1"),
        ({"seconds_per_file": 0.0}, "seconds_per_file must be greater"),
        ({"restart": "yes"}, "restart must be one of never, changed, always, got 'yes'"),
    ],
)
def test_bad_arguments(data: dict[str, Path], tmp_path: Path, arguments: dict[str, object], message: str):
    with pytest.raises(ParameterError, match=message):
        preprocess(data, tmp_path, **arguments)


def test_duplicate_ids(tmp_path: Path):
    train, test = fill(tmp_path / "train", 3), fill(tmp_path / "test", 3, "t")
    Image.fromarray(chest(bits=8)).save(train / "i001.png")
    write_dicom(test / "i002")
    preprocess(
        {"train": train, "test": test}, tmp_path / "out", image_size=32, jobs=1, max_failed_fraction=0.5
    )
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["split", "file", "reason"]].to_numpy().tolist() == [
        ["test", "i002", reasons.DUPLICATE_ID],
        ["train", "i001.png", reasons.DUPLICATE_ID],
    ]
    assert "taken by train/i001.dicom" in failures["message"][1]


def test_find_images(tmp_path: Path):
    for name in (
        "b.DCM",
        "a.dicom",
        "c.PNG",
        "1.2.840.113",
        "IM0001",
        "d.jpeg",
        ".hidden.dcm",
        "x.csv",
        "DICOMDIR",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder").mkdir()
    assert [p.name for p in find_images(tmp_path)] == [
        "1.2.840.113",
        "IM0001",
        "a.dicom",
        "b.DCM",
        "c.PNG",
        "d.jpeg",
    ]
    assert image_id_of("1.2.840.113") == "1.2.840.113"
    assert image_id_of("b.DCM") == "b"


def test_a_dangling_link_is_missing_and_other_entries_are_counted(tmp_path: Path):
    folder = fill(tmp_path / "in", 2)
    (folder / "gone.dicom").symlink_to(tmp_path / "nowhere.dicom")
    (folder / "there.dicom").symlink_to(folder / "i001.dicom")
    (folder / "patient").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    os.mkfifo(folder / "pipe.dicom")
    result = preprocess({"a": folder}, tmp_path / "out", image_size=32, jobs=1, max_failed_fraction=0.5)
    assert (result.stored, result.failed, result.ignored) == (3, 1, 3)
    assert ", ignored 3 (subfolders, other names) in" in result.summary
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["image_id", "reason"]].to_numpy().tolist() == [["gone", reasons.MISSING]]


def test_unprintable_names(tmp_path: Path):
    folder = fill(tmp_path / "in", 2)
    names = [b"new\nline.dicom", b"\x1b[31mred.dicom", b"no utf \xff.dicom", b"back\\slash.dicom", b" .dicom"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"")
    preprocess({"a": folder}, tmp_path / "out", image_size=32, jobs=1, max_failed_fraction=0.8)
    content = (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
    assert all(letter.isprintable() or letter == "\n" for letter in content)
    assert len(content.splitlines()) == 1 + len(names), "one line a file"
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert set(failures["reason"]) == {reasons.BAD_NAME}
    assert (
        "new\\nline.dicom" in failures["file"].tolist() and "no utf \\xff.dicom" in failures["file"].tolist()
    )


@pytest.mark.parametrize("columns", [("rows", "columns"), ("dim0", "dim1")])
def test_sizes_of_converted_copies(tmp_path: Path, columns: tuple[str, str]):
    folder = fill(tmp_path / "in", 2)
    Image.fromarray(chest(bits=8)).save(folder / "p.png")
    Image.fromarray(chest(bits=8)).save(folder / "q.png")
    sizes = pd.DataFrame({"image_id": ["p", "i000"], columns[0]: [2400, 9], columns[1]: [1920, 9]})
    preprocess({"a": folder}, tmp_path / "out", image_size=32, jobs=1)
    preprocess({"a": folder}, tmp_path / "out", image_size=32, jobs=1, sizes=sizes)
    opened = ImageStore(tmp_path / "out")
    assert opened.original_size("p") == (2400, 1920)
    assert opened.original_size("q") == (120, 96)
    assert opened.original_size("i000") == (60, 50), "a DICOM file knows its own size"
    with pytest.raises(DataError, match="sizes: expected the columns"):
        preprocess({"a": folder}, tmp_path / "out", jobs=1, sizes=sizes.rename(columns={columns[0]: "h"}))


# -- files that kill or hang their reader ------------------------------------------------------------


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In reader processes, pictures named `abort*` abort them, `hang*` never return, `slow*` once."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, sys, time
            if "cxr.dicom.isolated_child" in sys.orig_argv:
                from PIL import Image
                plain = Image.open
                def trapped(file, *args, **kwargs):
                    if "abort" in str(file):
                        os.abort()
                    first = str(file) + ".seen"
                    while "hang" in str(file) or ("slow" in str(file) and not os.path.exists(first)):
                        open(first, "w").close()
                        time.sleep(60)
                    return plain(file, *args, **kwargs)
                Image.open = trapped
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trap"))
    monkeypatch.setattr(workers, "ReaderPool", batch.ReaderPool)


@pytest.mark.slow
def test_only_the_guilty_are_quarantined(tmp_path: Path, traps: None):
    folder = fill(tmp_path / "in", 10)
    for name in ("abort1", "hang1", "slow1", "zz"):
        Image.fromarray(chest(bits=8)).save(folder / f"{name}.png")
    result = preprocess(
        {"a": folder},
        tmp_path / "out",
        image_size=32,
        jobs=2,
        seconds_per_file=1.5,
        max_failed_fraction=0.5,
    )
    assert (result.stored, result.failed) == (12, 2)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["image_id", "reason"]].to_numpy().tolist() == [
        ["abort1", reasons.CRASHED],
        ["hang1", reasons.TIMEOUT],
    ]
    assert "SIGABRT" in failures["message"][0]


# -- one run at a time, killed at any moment ---------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from cxr.preprocess import preprocess
from cxr.errors import CxrError
try:
    preprocess({{"train": Path({train!r}), "test": Path({test!r})}}, Path({out!r}), image_size=48, jobs=2,
               max_failed_fraction=0.2)
except CxrError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def start(data: dict[str, Path], out: Path, before: str = "") -> subprocess.Popen[str]:
    # A parent may have switched Ctrl-C off, and a child inherits that.
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + before
    code = before + RUN.format(train=str(data["train"]), test=str(data["test"]), out=str(out))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shard(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(out.glob("images/shard-*.h5")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_second_run_at_once_says_so(data: dict[str, Path], tmp_path: Path):
    import fcntl

    (tmp_path / "images").mkdir()
    with open(tmp_path / "images" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 7 on a")
        file.flush()
        with pytest.raises(RunError, match=r"another run is working in this folder \(process 7 on a\)"):
            preprocess(data, tmp_path, image_size=48, jobs=1)


def test_killed_run_is_continued(
    data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path
):  # `campaign.reading` kills in other ways
    process = start(data, tmp_path)
    wait_for_shard(tmp_path, process)
    assert process.poll() is None
    for name in ("failures.csv", "images/index.csv", "images/shard-00001.r3.h5"):
        temporary_beside(tmp_path / name).touch()  # as if it were killed while it writes these
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "images" / "index.csv").exists()
    preprocess(data, tmp_path, image_size=48, jobs=2, max_failed_fraction=0.2)
    assert content(tmp_path) == undisturbed
    assert [p for p in tmp_path.rglob("*") if is_temporary(p)] == []


@pytest.mark.slow
def test_a_terminated_command_says_so(data: dict[str, Path], tmp_path: Path):
    command = [sys.executable, "-m", "cxr", "preprocess", str(data["train"]), str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--image-size", "48", "--jobs", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_for_shard(tmp_path, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "terminated; what is finished stays" in said


def test_full_disk(data: dict[str, Path], undisturbed: dict[str, object], tmp_path: Path):
    # The largest shard does not fit: writing it fails as it does on a full disk.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (25000, 25000))\n"
    process = start(data, tmp_path, limit)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "DiskError" in said and ".h5: the file is larger than this system allows" in said
    assert not (tmp_path / "images" / "index.csv").exists()
    assert [p for p in tmp_path.rglob("*") if is_temporary(p)] == []
    preprocess(data, tmp_path, image_size=48, jobs=1, max_failed_fraction=0.2)
    assert content(tmp_path) == undisturbed


# -- a cluster ---------------------------------------------------------------------------------------


def test_no_scheduler_there(data: dict[str, Path], tmp_path: Path):
    pytest.importorskip("distributed")
    with pytest.raises(ParameterError, match="scheduler: no Dask scheduler answers at 'nonsense://1'"):
        preprocess(data, tmp_path, image_size=48, scheduler="nonsense://1")


@pytest.mark.slow
def test_cluster_with_a_worker_killed(tmp_path: Path, traps: None):
    distributed = pytest.importorskip("distributed")
    folder = fill(tmp_path / "in", 48)
    Image.fromarray(chest(bits=8)).save(folder / "abort1.png")
    expected = tmp_path / "expected"
    preprocess({"a": folder}, expected, image_size=48, jobs=1, max_failed_fraction=0.1)
    killed: list[int] = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill_one(done: int, total: int) -> None:
            if done > 8 and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        result = preprocess(
            {"a": folder},
            tmp_path / "out",
            image_size=48,
            scheduler=cluster.scheduler_address,
            progress=kill_one,
        )
    assert killed
    assert (result.stored, result.failed) == (48, 1)
    assert pd.read_csv(tmp_path / "out" / "failures.csv")["image_id"].tolist() == ["abort1"]
    assert content(tmp_path / "out") == content(expected)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        pinned = {"recipe": RECIPE, "pixels": recipe_pixels(Path(name))}
        RECIPE_PIXELS.write_text(json.dumps(pinned, separators=(",", ":")) + "\n")
