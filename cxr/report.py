"""One HTML page for a run: the score, every figure with its caption, what each notebook cost."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from cxr import schema
from cxr.chain import Notebook, read_notebooks
from cxr.chain.manifest import Hashes, read_manifest
from cxr.errors import DataError
from cxr.files import write_text
from cxr.rundir import CAPTION_KEY, read_json

REPORT = "report.html"
_TEMPLATE = Path(__file__).with_suffix(".html.j2")


@dataclass(frozen=True)
class _Picture:
    name: str
    caption: str
    png_base64: str


@dataclass(frozen=True)
class _Section:
    name: str
    title: str
    state: str
    executed: str
    pictures: list[_Picture]


def write_report(root: Path) -> Path:
    """Write `report.html` into a run's folder; it holds its pictures and opens anywhere.

    Args:
        root: Folder of the run.

    Returns:
        Path of the page.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such run")
    template = _TEMPLATE.read_text(encoding="utf-8")
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            run=root.name,
            scores=_score_rows(root),
            classes=_class_rows(root),
            sections=[_section(root, notebook) for notebook in read_notebooks()],
        )
    )
    write_text(root / REPORT, page)
    return root / REPORT


def submission_score(root: Path) -> dict[str, Any] | None:
    """The submission's score as notebook 08 wrote it, or None where there is no truth."""
    return _result(root, schema.SCORE_JSON)


def _section(root: Path, notebook: Notebook) -> _Section:
    folder = root / notebook.name
    manifest = read_manifest(folder)
    state = "not finished"
    if manifest:
        seconds, peak_mb = manifest["seconds"], manifest["peak_memory_mb"]
        state = f"{seconds:.0f} s, peak memory {peak_mb} MB, finished {manifest['finished']}"
    executed = f"{notebook.name}/{notebook.name}.ipynb"
    recorded = (manifest or {"outputs": {}})["outputs"]
    return _Section(
        name=notebook.name,
        title=_title(notebook),
        state=state,
        executed=executed if (root / executed).is_file() else "",
        pictures=list(_pictures(folder, recorded)),
    )


def _title(notebook: Notebook) -> str:
    """First heading of a notebook's text."""
    for cell in notebook.document.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0][2:]
    return notebook.name


def _pictures(folder: Path, recorded: dict[str, Any]) -> Iterator[_Picture]:
    """The figures of a notebook; one that is damaged is left out."""
    hashes = Hashes()
    for path in sorted((folder / "figures").glob("*.png")):
        record = recorded.get(str(path.relative_to(folder)))
        if record is not None and not hashes.as_recorded(path, record):
            continue
        try:
            with Image.open(path) as image:
                caption = str(image.info.get(CAPTION_KEY, ""))
        except OSError:
            continue
        yield _Picture(path.stem, caption, base64.b64encode(path.read_bytes()).decode("ascii"))


def _score_rows(root: Path) -> Sequence[tuple[str, str]]:
    """Label and value of every single number in the two score files."""
    rows = []
    for artefact, prefix in ((schema.SCORE_JSON, "test"), (schema.EVALUATION_JSON, "validation")):
        for key, value in (_result(root, artefact) or {}).items():
            label = f"{prefix}: {key.replace('_', ' ')}"
            if isinstance(value, float):
                rows.append((label, f"{value:.4f}"))
            elif isinstance(value, int | str) and not isinstance(value, bool):
                rows.append((label, str(value)))
            elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) for v in value):
                rows.append((label, f"{value[0]:.4f} to {value[1]:.4f}"))
    return rows


def _class_rows(root: Path) -> list[dict[str, Any]]:
    """Rows of the per-class table of the best score file there is."""
    for artefact in (schema.SCORE_JSON, schema.EVALUATION_JSON):
        rows = (_result(root, artefact) or {}).get("per_class")
        if isinstance(rows, list) and rows:
            # The single FROC rates would make the table too wide; the notebook shows them.
            return [
                {key: _cell(value) for key, value in row.items() if not key.startswith("froc_at_")}
                for row in rows
            ]
    return []


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _result(root: Path, artefact: str) -> dict[str, Any] | None:
    """Content of a JSON artefact of a notebook that finished, if it still is as it was written."""
    manifest = read_manifest(root / artefact.split("/")[0])
    record = (manifest or {"outputs": {}})["outputs"].get(artefact.split("/", 1)[1])
    if record is None or not Hashes().as_recorded(root / artefact, record):
        return None
    return read_json(root / artefact)
