"""Every dependency has a licence that lets the project be MIT, and the page says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
licences = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(licences)


def test_no_installed_package_of_the_lock_is_copyleft_or_without_a_licence():
    rows = licences.table()
    assert len(rows) > 100 and {"torch", "numpy", "pydicom"} <= {name for name, _, _ in rows}
    assert [wrong for name, _, kind in rows if (wrong := licences.judge(name, kind))] == []


def test_what_the_core_brings_is_locked():
    assert {"torch", "pydicom", "pandas"} <= licences.core() <= set(licences.locked()) | {"setuptools", "pip"}


@pytest.mark.parametrize("kind", ["GPL", "AGPL", "LGPL", "proprietary", "MPL", ""])
def test_other_licences_are_refused(kind):
    assert licences.judge("some-package", kind).startswith("some-package: ")


def test_the_page_lists_every_locked_package_that_is_installed():
    page = licences.PAGE.read_text(encoding="utf-8")
    missing = [row for row in licences.table() if "| {} | {} | {} |".format(*row) not in page]
    assert missing == [], "make licences writes the page anew"


def test_every_version_with_a_hash_is_the_locked_one():
    lines = (ROOT / "requirements.hashes").read_text(encoding="utf-8").splitlines()
    pins = [line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith(" ")]
    hashed = {licences.canonicalize_name(name): version for name, version in pins}
    locked = licences.locked()
    assert {name: (v, locked[name]) for name, v in hashed.items() if locked.get(name, v) != v} == {}
    assert licences.core() <= set(hashed), "make hashes writes the file anew"
    assert all("--hash=sha256:" in line for line in lines if line.startswith(" "))
