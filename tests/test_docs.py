"""What README, CONTRIBUTING and docs/ tell a reader to type or to open exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from cxr import chain, cli, metrics, params

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(cli.app).commands
TARGETS = re.findall(r"^([a-z]+):.*?## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
DECLARED = params.merge_declared(notebook.parameters for notebook in chain.read_notebooks())


def page(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def typed(text: str) -> list[str]:
    """Lines of code blocks and pieces of inline code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [one for one in [*lines, *inline] if one]


def cxr_calls(text: str) -> list[list[str]]:
    """Words after `cxr` of what starts with it, or with Python's `-m cxr`."""
    calls = [re.search(r"(?:^| -m )cxr ([a-z].*)", line) for line in typed(text)]
    return [shlex.split(call[1]) for call in calls if call]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(path: Path):
    for command, *words in cxr_calls(page(path)):
        assert command in COMMANDS, f"cxr {command}"
        options = {name for one in COMMANDS[command].params for name in [*one.opts, *one.secondary_opts]}
        options |= {"--help", "--debug"}
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"cxr {command} {word}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_parameters_set_on_a_line_are_declared(path: Path):
    for line in typed(page(path)):
        for name in re.findall(r"-p \"?([a-z_]+)=", line):
            assert name in DECLARED, f"-p {name}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(path: Path):
    for line in typed(page(path)):
        if called := re.match(r"make ([a-z]+)$", line):
            assert called[1] in TARGETS, line


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_files_of_the_project_exist(path: Path):
    names = (
        r"(?<![\w/.])((?:cxr|docs|examples|notebooks|params|tests)/[\w./-]*\w|\w+\.(?:lock|yml|cff)|Makefile)"
    )
    for line in typed(page(path)):
        for name in re.findall(names, line):
            if name.endswith(".ipynb") or "NN_" in name or "MY_" in name:
                continue
            assert (ROOT / name).exists(), f"{path.name} names {name}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page(path)):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_command_is_in_the_docs():
    named = {call[0] for path in PAGES for call in cxr_calls(page(path))}
    assert set(COMMANDS) <= named


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert phony and set(phony[1].split()) == set(TARGETS)


def test_version_licence_and_workflow_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] and citation["license"] == project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    runs = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    assert runs == {"make test", "make lint", "make docs"}


def test_the_package_is_marked_as_typed():
    assert (ROOT / "cxr" / "py.typed").is_file()


def test_the_code_that_contributing_shows_stands_in_the_files_it_names():
    text = page(ROOT / "CONTRIBUTING.md")
    steps = re.findall(r"`((?:cxr|notebooks)/[\w/]+\.py)`[^`]*```python\n(.*?)```", text, re.S)
    assert len(steps) == 2
    for file, code in steps:
        assert code.strip() in (ROOT / file).read_text(encoding="utf-8"), file


def test_the_functions_that_contributing_asks_for_are_those_of_the_code():
    text = page(ROOT / "CONTRIBUTING.md")
    for call in ("recognise(source)", "read(source, notes)"):
        assert call in text
        name, arguments = call.rstrip(")").split("(")
        head = rf"^def {name}\(" + r",\s*".join(rf"{one}:[^,)]+" for one in arguments.split(", "))
        forms = [path for path in (ROOT / "cxr" / "layouts").glob("*.py") if f"def {name}(" in page(path)]
        assert any(re.search(head, page(path), re.M) for path in forms), call
    for name in re.findall(r"`(metrics\.\w+)`", text):
        assert hasattr(metrics, name.split(".")[1])
