"""The first page of `make lab`: the notebooks, what each needs, and whether it is there.

    python -m cxr.lab [RUN_DIR]

writes `notebooks/index.ipynb`, which git ignores; its only code cell looks again. JupyterLab's settings
for this project are in `jupyterlab/overrides.json`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import v4

from cxr import chain, params
from cxr.files import write_text
from cxr.rundir import PARAMETERS, locate

INDEX = "index.ipynb"
DEMO = "outputs/demo"
_THERE, _MISSING = "✓", "✗"
_HEADER = """# From radiographs to scored boxes, in eight notebooks

Open a notebook by its link, or by a double click on the left. Start with any whose needs are there. Each
writes only to its own folder of the run. The cell below says how things stand; run it again (Shift+Enter)
to look again.

To run all without a screen: `cxr run params/demo.yaml` in a terminal. **Not a medical device.**"""


@dataclass(frozen=True)
class Row:
    """One notebook and how things stand with it.

    Attributes:
        name: For example `04_split`.
        title: First heading of its text.
        needs: Every file or folder that it cannot do without, with whether it is there.
        makes: Every file or folder that it writes in any run, likewise.
    """

    name: str
    title: str
    needs: dict[str, bool]
    makes: dict[str, bool]


@dataclass(frozen=True)
class Overview:
    """The notebooks of a run; shown as a table where it is the value of a notebook's cell."""

    run_dir: Path
    data_dir: Path
    rows: list[Row]

    def _repr_markdown_(self) -> str:
        lines = [
            f"Run `{self.run_dir}`, data `{self.data_dir}`.",
            "",
            "| notebook | what it does | needs | has run |",
            "|:--|:--|:--|:--|",
        ]
        for row in self.rows:
            needs = "<br>".join(
                f"{_THERE if there else _MISSING} `{name}`" for name, there in row.needs.items()
            )
            lines.append(f"| [{row.name}]({row.name}.py) | {row.title} | {needs} | {_made(row.makes)} |")
        if not all(self.rows[0].needs.values()):
            lines += [
                "",
                "There are no data yet: `make demo` in a terminal makes synthetic ones and runs all.",
            ]
        return "\n".join(lines)


def overview(run_dir: str = DEMO) -> Overview:
    """Look which files of a run are there.

    What a notebook needs and makes is read from the first cell of its text. What stands there behind the
    word "where" is no need, and what stands behind "with a truth" is not made by every run.

    Args:
        run_dir: Folder of the run, relative to the project's root. Its data folder is the one its
            parameters name, for a new run the notebooks' default.

    Returns:
        The notebooks in order.
    """
    root = locate(run_dir)
    notebooks = chain.read_notebooks()
    data_dir = str(notebooks[0].parameters["data_dir"].default)
    if (root / PARAMETERS).is_file():
        data_dir = str(params.read_file(root / PARAMETERS)["data_dir"])
    rows = []
    for notebook in notebooks:
        text = notebook.document.cells[0].source
        reads = re.split(r"\bwhere\b", _bullet(text, "Reads"))[0]
        writes = _bullet(text, "Writes").split("with a truth")[0]
        rows.append(
            Row(
                notebook.name,
                text.splitlines()[0].lstrip("# "),
                {name: _place(name, root, locate(data_dir)).exists() for name in _names(reads)},
                {n: (root / n).exists() for n in _names(writes) if n.startswith(f"{notebook.name}/")},
            )
        )
    return Overview(Path(run_dir), Path(data_dir), rows)


def write_index(run_dir: str = DEMO) -> Path:
    """Write the first page as a notebook, with its table already in it.

    Args:
        run_dir: Folder of the run it looks at.

    Returns:
        Path of `notebooks/index.ipynb`.
    """
    table = overview(run_dir)
    cell = v4.new_code_cell(f"from cxr.lab import overview\n\noverview({run_dir!r})")
    data = {"text/markdown": table._repr_markdown_(), "text/plain": f"overview of {run_dir}"}
    cell.outputs = [v4.new_output("execute_result", data, execution_count=1)]
    cell.execution_count = 1
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}
    page = v4.new_notebook(cells=[v4.new_markdown_cell(_HEADER), cell], metadata={"kernelspec": kernel})
    path = chain.notebooks_folder() / INDEX
    write_text(path, nbformat.writes(page))
    return path


def _bullet(text: str, word: str) -> str:
    """The item of a header cell's list that begins with a word, over all its lines."""
    found = re.search(rf"^- \*\*{word}\*\*(.*?)(?=^- |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def _names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _place(name: str, root: Path, data_dir: Path) -> Path:
    return root / name if re.match(r"\d\d_", name) else data_dir / name


def _made(makes: dict[str, bool]) -> str:
    count = sum(makes.values())
    if count == len(makes):
        return f"{_THERE} yes"
    return f"{count} of {len(makes)} files" if count else "no"


if __name__ == "__main__":
    print(write_index(*sys.argv[1:2]))
