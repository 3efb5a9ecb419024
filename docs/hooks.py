"""What MkDocs does besides reading `docs/`: the README is the first page, and each room gets its API page.

Nothing is written into the working tree; the pages exist only while the site is built.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PICTURES = "outputs/gallery"
AT_THE_ROOT = ("CONTRIBUTING.md", "CHANGELOG.md")


def rooms() -> list[str]:
    """Public modules and packages directly below `cxr`, in the order of the alphabet."""
    found = [path for path in (ROOT / "cxr").iterdir() if not path.name.startswith(("_", "."))]
    return sorted(
        path.stem
        for path in found
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").is_file())
    )


def sub_rooms(room: str) -> list[str]:
    """The package itself, then its public modules where its own page shows none of their names."""
    folder = ROOT / "cxr" / room
    if not folder.is_dir() or "__all__" in (folder / "__init__.py").read_text(encoding="utf-8"):
        return [f"cxr.{room}"]
    modules = [
        path.relative_to(ROOT).with_suffix("").parts
        for path in sorted(folder.rglob("*.py"))
        if not path.name.startswith("_")
    ]
    return [f"cxr.{room}", *(".".join(parts) for parts in modules)]


def api_page(room: str) -> str:
    """The Markdown of a room's page."""
    parts = [f"# cxr.{room}\n"]
    for name in sub_rooms(room):
        if name != f"cxr.{room}":
            parts.append(f"## {name}\n")
        parts.append(f"::: {name}\n    options:\n      heading_level: {2 if len(parts) == 1 else 3}\n")
    return "\n".join(parts)


def as_page(text: str) -> str:
    """A file of the repository's root as a page: links into `docs/` lose that folder."""
    text = text.replace(f"({PICTURES}/", "(gallery/").replace("(docs/", "(")
    return re.sub(r"\((LICENSE|CITATION\.cff|examples/?|notebooks/?)\)", "(#)", text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Hang the API pages into the navigation."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "API" in entry:
            entry["API"] = [{f"cxr.{room}": f"api/{room}.md"} for room in rooms()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in `docs/` holds, and the README's pictures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=as_page(readme)))
    for name in AT_THE_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=as_page(text)))
    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=api_page(room)))
    for picture in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(File.generated(config, f"gallery/{picture.name}", abs_src_path=str(picture)))
    return files
