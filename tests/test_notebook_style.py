"""The notebooks keep to the house style; nothing is executed here."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import jupytext
import pytest
from nbformat import NotebookNode

from cxr import classifier, recipes, schema
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
LONGEST_CELL = 15


def notebook(path: Path) -> NotebookNode:
    return jupytext.read(path)


def lines(cell: NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def is_parameters(cell: NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def test_there_are_eight() -> None:
    assert [path.stem[:2] for path in PATHS] == [f"{n:02d}" for n in range(1, 9)]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_header_cell_says_what_it_reads_and_writes(path: Path) -> None:
    header = notebook(path).cells[0].source
    assert re.match(r"# [A-Z][a-z]+ ", header), "the title starts with a verb"
    for word in ("**Reads**", "**Writes**", "**Time**", "demo (CPU)", "full data set", "GPU"):
        assert word in header
    code = "\n".join(c.source for c in notebook(path).cells if c.cell_type == "code")
    for name in set(re.findall(r"schema\.([A-Z_]+(?:CSV|UBJ|JSON|DIR))\b", code)):
        assert getattr(schema, name) in header.replace("\n  ", " "), f"{name} is missing from the header cell"


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_kernelspec_has_name_and_language(path: Path) -> None:
    assert {"name": "python3", "language": "python"}.items() <= notebook(path).metadata.kernelspec.items()


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_one_parameters_cell_of_commented_literals(path: Path) -> None:
    (cell,) = [c for c in notebook(path).cells if is_parameters(c)]
    for line in lines(cell):
        assert re.fullmatch(r"\w+: [\w\[\]]+ = .+  # \S.+", line), line
    names = [node.target.id for node in ast.parse(cell.source).body]
    assert names[:2] == ["run_dir", "data_dir"]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_code_cells_are_short_and_define_nothing(path: Path) -> None:
    for cell in notebook(path).cells:
        if cell.cell_type != "code" or is_parameters(cell):
            continue
        assert len(lines(cell)) <= LONGEST_CELL, cell.source
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, kinds)], cell.source
        assert not re.search(r"sys\.path|os\.chdir|^[!%]|plt\.show", cell.source, re.M), cell.source


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_text_stands_between_any_two_code_cells(path: Path) -> None:
    cells = notebook(path).cells
    for before, after in pairwise(cells):
        assert before.cell_type == "markdown" or after.cell_type == "markdown", after.source


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_parameter_is_used(path: Path) -> None:
    code = [c for c in notebook(path).cells if c.cell_type == "code"]
    (cell,) = [c for c in code if is_parameters(c)]
    used = {
        n.id for c in code if c is not cell for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.Name)
    }
    for name, recipe in {"Recipe": Recipe, "Looks": Looks, "clf.Recipe": classifier.Recipe}.items():
        if any(f"from_values({name}, globals())" in c.source for c in code):
            used |= set(recipes.declared(recipe))
    declared = {node.target.id for node in ast.parse(cell.source).body}
    assert declared <= used


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_last_cell_prints_stable_facts_after_a_summary(path: Path) -> None:
    cells = notebook(path).cells
    assert cells[-1].cell_type == "code"
    assert cells[-1].source.startswith("# NBVAL_CHECK_OUTPUT\nprint(")
    prose = [c.source for c in cells if c.cell_type == "markdown"]
    assert "**Next:**" in prose[-1]
    assert any("## Summary" in text for text in prose[-2:])


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_figures_are_numbered_and_captioned(path: Path) -> None:
    code = "\n".join(c.source for c in notebook(path).cells if c.cell_type == "code")
    names = re.findall(r'^    "(\d\d_\w+)",?(?:: \(|$)', code, re.M)
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    assert len(names) >= 2
