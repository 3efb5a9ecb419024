"""Write `licences.md` from the metadata of the installed packages: `make licences`.

`judge` is what `tests/test_licences.py` calls.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"

KINDS = [  # the first that fits; the strictest first
    ("AGPL", r"AGPL|Affero"),
    ("LGPL", r"LGPL|Lesser General"),
    ("GPL", r"\bGPL|GNU General Public"),
    ("proprietary", r"Proprietary"),
    ("MPL", r"MPL|Mozilla"),
    ("Apache", r"Apache"),
    ("BSD", r"BSD"),
    ("MIT", r"\bMIT\b|MIT-CMU|HPND"),
    ("PSF", r"PSF|Python Software Foundation"),
    ("ISC", r"\bISC"),
    ("other permissive", r"Unlicense|Zlib|0BSD|CC0|Public Domain"),
]
PERMISSIVE = {"Apache", "BSD", "MIT", "PSF", "ISC", "other permissive"}
JUDGED = {
    "certifi": "MPL 2.0: a list of certificates, used unchanged",
    "fqdn": "MPL 2.0: used unchanged, by JupyterLab only",
    "orjson": "MPL 2.0 or MIT and Apache at choice",
    "pathspec": "MPL 2.0: used unchanged, by the tools that check and build only",
    "tqdm": "MPL 2.0 and MIT: used unchanged",
}
"""Packages with a licence of files (MPL): it asks for the source of changed files, and we change none."""
BY_HAND = {
    "cuda-toolkit": "proprietary",
    "faster-coco-eval": "Apache",
}
"""Packages whose metadata name no licence; read in their source."""


def licence(name: str) -> str:
    """Kind of licence of an installed package, from its metadata; empty where they name none."""
    if name in BY_HAND:
        return BY_HAND[name]
    facts = metadata.metadata(name)
    declared = [facts.get("License-Expression") or ""]
    if not declared[0]:
        declared += [c for c in facts.get_all("Classifier") or [] if c.startswith("License")]
        declared += (facts.get("License") or "").strip().splitlines()[:1]
    text = " ".join(declared)
    return next((kind for kind, pattern in KINDS if re.search(pattern, text)), "")


def locked() -> dict[str, str]:
    """Version by canonical name of every package of the lock file."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def core() -> set[str]:
    """Canonical names of what `pip install cxr` brings on this machine, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, found = [("cxr", "")], set()
    while waiting:
        name, extra = waiting.pop()
        for text in project["dependencies"] if name == "cxr" else metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(wanted.name)
            if key not in found:
                found.add(key)
                waiting += [(key, ""), *((key, one) for one in wanted.extras)]
    return found


def judge(name: str, kind: str) -> str:
    """What is wrong with a package's licence; empty where nothing is."""
    if kind in PERMISSIVE or (kind == "MPL" and name in JUDGED):
        return ""
    if kind == "proprietary" and name.startswith(("nvidia-", "cuda-")):
        return ""
    return f"{name}: {kind or 'no licence in its metadata'}"


def table() -> list[tuple[str, str, str]]:
    """Name, whether of the core, and kind of licence of every locked package that is installed."""
    of_core, rows = core(), []
    for name in sorted(locked()):
        try:
            rows.append((name, "core" if name in of_core else "extra", licence(name)))
        except metadata.PackageNotFoundError:
            continue
    return rows


def page() -> str:
    """The Markdown of `licences.md`."""
    lines = [
        "# Licences of the dependencies\n",
        "This page is written by `make licences` from the metadata of the locked packages;",
        "`tests/test_licences.py` refuses a package with a copyleft licence (GPL, LGPL, AGPL) or with none.",
        "*core* comes with every installation, *extra* only with an extra (JupyterLab, tests, pages).\n",
        "Packages whose licence covers single files (MPL) are used as they are:\n",
        *(f"- {name}: {reason}." for name, reason in sorted(JUDGED.items()) if name in locked()),
        "\nNVIDIA's libraries for CUDA are proprietary. PyTorch's wheels for Linux ask for them. NVIDIA's",
        "terms let anyone use them and pass them on. PyTorch's wheels for CPUs do without them.\n",
        "| package | installed with | licence |",
        "|---|---|---|",
        *(f"| {name} | {where} | {kind} |" for name, where, kind in table()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
