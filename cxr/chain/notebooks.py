"""The numbered notebooks as their text declares them: parameters, and what they read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from cxr import params, schema
from cxr.chain.usage import PACKAGE
from cxr.chain.values import check_values
from cxr.errors import DataError, ParameterError

DATA_DIR = "data_dir"


@dataclass(frozen=True)
class Notebook:
    """One notebook as its text declares it.

    Attributes:
        path: The `.py` file.
        document: The notebook, ready to execute.
        parameters: What its `parameters` cell declares.
        artefacts: Artefact names of `schema` that its code mentions.
    """

    path: Path
    document: NotebookNode = field(repr=False)
    parameters: dict[str, params.Declared] = field(repr=False)
    artefacts: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the notebook and of its folder in a run, for example `04_split`."""
        return self.path.stem

    @property
    def reads(self) -> tuple[str, ...]:
        """Artefacts of other notebooks that this one may read."""
        return tuple(a for a in self.artefacts if not a.startswith(f"{self.name}/"))

    @property
    def data(self) -> tuple[str, ...]:
        """What it may read of the data folder, as the comment behind `data_dir` names it.

        Tables by name (`train.csv`), folders with a slash (`train/`); nothing where it names none.
        """
        declared = self.parameters.get(DATA_DIR)
        return tuple(re.findall(r"\b\w+(?:\.csv\b|/)", declared.comment)) if declared else ()


def notebooks_folder() -> Path:
    """Where the notebooks are: beside the package in a clone, inside it once installed.

    Raises:
        DataError: They are in neither place.
    """
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "_notebooks"):
        if any(folder.glob("[0-9][0-9]_*.py")):
            return folder
    raise DataError(f"no notebooks beside {PACKAGE} or in it; install the package from a clone")


def read_notebooks(folder: Path | None = None) -> list[Notebook]:
    """All notebooks of the chain, in order.

    Raises:
        ParameterError: A notebook has not exactly one cell tagged `parameters`.
    """
    return [_read_notebook(path) for path in sorted((folder or notebooks_folder()).glob("[0-9][0-9]_*.py"))]


def _read_notebook(path: Path) -> Notebook:
    document = jupytext.read(path)
    tagged = [cell.source for cell in document.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{path.name}: expected one cell tagged parameters, found {len(tagged)}")
    code = "\n".join(cell.source for cell in document.cells if cell.cell_type == "code")
    mentioned = sorted(set(re.findall(r"\bschema\.([A-Z_]+)\b", code)))
    values = (getattr(schema, name, None) for name in mentioned)
    artefacts = tuple(v for v in values if isinstance(v, str) and re.match(r"\d\d_\w+/", v))
    return Notebook(path, document, params.declared_in_cell(tagged[0], path.stem), artefacts)


def load_parameters(
    path: str | Path, overrides: Iterable[str] = (), *, notebooks: Path | None = None
) -> dict[str, params.Value]:
    """Read a parameter file and check it against all notebooks, before hours are spent on the first ones.

    Args:
        path: Flat YAML file.
        overrides: `KEY=VALUE` texts that win over the file.
        notebooks: Folder of the notebooks; the project's own by default.

    Returns:
        A value for every parameter that a notebook declares.

    Raises:
        DataError: No such file.
        ParameterError: An unknown name, a wrong type, a value out of its range or none of its choices, or a
            malformed file.
    """
    declared = params.merge_declared(notebook.parameters for notebook in read_notebooks(notebooks))
    values = params.compose(params.read_file(path), overrides, declared, where=Path(path).name)
    check_values(values)
    return values


def selected(notebooks: list[Notebook], first: str, last: str) -> list[Notebook]:
    """The notebooks from `first` to `last`, each by name or number; empty for the chain's own ends.

    Raises:
        ParameterError: No such notebook, or `first` comes after `last`.
    """
    names = [notebook.name for notebook in notebooks]

    def position(wanted: str) -> int:
        stem = Path(wanted).stem
        for i, name in enumerate(names):
            if stem in (name, name.split("_")[0], name.split("_")[0].lstrip("0"), name.split("_", 1)[1]):
                return i
        raise ParameterError(f"no notebook {wanted!r}; there are {', '.join(names)}")

    start = position(first) if first else 0
    stop = position(last) if last else len(names) - 1
    if start > stop:
        raise ParameterError(f"--from {first} comes after --to {last}")
    return notebooks[start : stop + 1]
