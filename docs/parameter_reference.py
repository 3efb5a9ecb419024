"""Write `parameters.md` from the notebooks' cells and the classes behind them: `make parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxr import chain, params, recipes
from cxr.recipes import About

PAGE = Path(__file__).with_name("parameters.md")

_HEAD = """# Parameters

This page is written from the code by `make parameters`; a test holds it equal.

A parameter file sets any of these by name (`params/demo.yaml` is one), and `-p NAME=VALUE` on a command line
wins over the file. A name that no notebook declares, or a value of another type or outside its range, stops
the run before it starts. A parameter marked *machine* says where or how fast the work is done. Another
value of it does not make finished work run again.
"""


def parameter_reference() -> str:
    """The page as Markdown: a table for each notebook, each parameter where it comes first."""
    about = {name: one for cls in chain.CLASSES for name, one in recipes.described(cls).items()}
    seen: set[str] = set()
    page = [_HEAD]
    for notebook in chain.read_notebooks():
        own = {name: one for name, one in notebook.parameters.items() if name not in seen}
        seen |= set(own)
        if own:
            page.append(f"## {notebook.name}\n")
            page.append("| parameter | type | default | range | meaning |\n|---|---|---|---|---|")
            page += [_row(one, about) for one in own.values()]
            page.append("")
    return "\n".join(page).rstrip() + "\n"


def _row(one: params.Declared, about: Mapping[str, About]) -> str:
    known = about.get(one.name)
    cells = [
        f"`{one.name}`",
        f"`{one.type}`",
        f"`{one.default!r}`",
        known.range if known else "",
        one.comment.replace("machine: ", "*machine*: ", 1).replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(parameter_reference(), encoding="utf-8")
