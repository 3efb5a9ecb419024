"""What lies in the files: damaged radiographs, and marked patients, through the whole program."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pydicom
from campaign import quick
from campaign.mutants import write_mutants
from campaign.tally import Row, counted
from dicom_files import MARKER, plant
from smoke_run import SMOKE

from cxr import schema
from cxr.dicom import reasons
from cxr.store import ImageStore

if TYPE_CHECKING:
    from campaign.chain import Bench


def _copy_of_data(bench: Bench, name: str) -> Path:
    data = bench.work / name
    shutil.rmtree(data, ignore_errors=True)
    return Path(shutil.copytree(bench.data, data))


def _fine(arguments: list[str], work: Path) -> str:
    status, said = quick.run(arguments, work)
    assert status == 0, said[-3000:]
    return said


def mutants(bench: Bench, number: int, seed: int) -> list[Row]:
    """Damaged files through `cxr run`, `predict` and `adopt`: each is read, or named with a reason."""
    data, made = _copy_of_data(bench, "mutants-data"), bench.work / "mutants"
    for folder in (made, made.with_name("mutants-good")):
        shutil.rmtree(folder, ignore_errors=True)
    paths = write_mutants(made, number, seed)
    ids = {path.stem for path in paths}
    for path in paths:
        shutil.copy(path, data / "train")
    with (data / "train.csv").open("a") as table:
        table.writelines(f"{name},No finding,{schema.VINBIGDATA.normal_id},R1,,,,\n" for name in sorted(ids))

    run_dir = bench.work / "mutants-run"
    shutil.rmtree(run_dir, ignore_errors=True)
    _fine(bench.arguments(run_dir, last=5, data_dir=data, max_failed_fraction=1.0), bench.work)
    read = ids & set(ImageStore(run_dir / schema.IMAGES_DIR).ids)
    failed = _reasons(run_dir / schema.FAILURES_CSV)
    assert read | failed.keys() == ids and not read & failed.keys()
    told = f"01 to 05 ran: read {len(read):,}, {counted(Counter(failed.values()))}"
    rows = [Row("`cxr run`: mutated files among the training images", number, told)]

    best = bench.reference / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
    out = bench.work / "mutants-found"
    shutil.rmtree(out, ignore_errors=True)
    _fine(["predict", str(best), str(made), "--out", str(out)], bench.work)
    not_looked_at = {
        Path(row["file"]).stem for row in json.loads((out / "predictions.json").read_text())["failures"]
    }
    assert not_looked_at == failed.keys()
    rows.append(Row("`cxr predict`: the same files", number, "the same read and named"))

    adopted = bench.work / "mutants-adopted"
    shutil.rmtree(adopted, ignore_errors=True)
    said = _fine(["adopt", str(data), str(adopted)], bench.work)
    linked = {path.stem for path in (adopted / "train").iterdir()}
    assert ids <= linked, said[-2000:]
    rows.append(Row("`cxr adopt`: a folder of them", number, "all linked; their pixels are not read"))
    return rows


def _reasons(table: Path) -> dict[str, str]:
    failures = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert set(failures["reason"]) <= set(reasons.ALL) - {reasons.CRASHED, reasons.TIMEOUT}
    return dict(zip(failures[schema.IMAGE_ID], failures["reason"], strict=True))


def patients(bench: Bench, number: int, seed: int) -> list[Row]:
    """A marker in every text attribute of every radiograph: in no byte of what the program makes of them."""
    data, made = _copy_of_data(bench, "marked-data"), bench.work / "marked"
    shutil.rmtree(made, ignore_errors=True)
    planted = 0
    for path in sorted(data.rglob("*.dicom")):
        radiograph = pydicom.dcmread(path)
        planted += plant(radiograph)
        with pydicom.config.disable_value_validation():
            radiograph.save_as(path)
        assert path.read_bytes().count(MARKER.encode()) > 1000
    run_dir, found = made / "run", made / "found"
    best = run_dir / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
    commands: dict[str, list[str]] = {
        "run": bench.arguments(run_dir, data_dir=data),
        "predict": [
            "predict",
            str(best),
            str(data / "test"),
            "--out",
            str(found),
            "--pictures",
            "--write",
            "coco",
        ],
        "view": ["view", str(found), "--no-open", "--out", str(made / "found.html")],
        "export as COCO": ["export", str(run_dir), str(made / "coco"), "--format", "coco"],
        "export as YOLO": ["export", str(run_dir), str(made / "yolo"), "--format", "yolo"],
        "export of the detector": ["export", str(run_dir), str(made / "tensors"), "--format", "safetensors"],
        "kernel": ["kaggle", str(SMOKE), str(made / "kernel"), "--infer", str(run_dir)],
    }
    logs = [_fine(arguments, bench.work) for arguments in commands.values()]
    assert MARKER not in "".join(logs)
    size = 0
    for path, content in _contents(made):
        size += len(content)
        for form in (MARKER.encode(), MARKER.encode("utf-16-le")):
            assert form not in content, f"{path} holds the marker"
    told = f"in no byte of {size / 1e6:.0f} MB, and in no line said"
    return [
        Row(
            f"a marker in {planted:,} texts of patients' files, then {', '.join(commands)}",
            len(commands),
            told,
        )
    ]


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, the members of archives too; links are the patients' files themselves."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        yield str(path), path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path}: {name}", archive.read(name)) for name in archive.namelist())
