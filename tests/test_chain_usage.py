"""Which code a notebook uses: what an edit makes run again, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr import chain
from cxr.chain.usage import PACKAGE, code_digest, used_code

ALL = {"01", "02", "03", "04", "05", "06", "07", "08"}

# An edit of this definition makes these notebooks run again.
EDITS = {
    "cxr.plots.annotations:class_counts": {"01"},
    "cxr.plots.features:fold_balance": {"04"},
    "cxr.plots.features:feature_separation": {"03"},
    "cxr.plots.training:training_curves": {"06"},
    "cxr.plots.evaluation:pr_curves": {"07"},
    "cxr.plots.images:gallery": ALL - {"03"},
    "cxr.plots._style:new_figure": ALL,
    "cxr.rundir:RunDir": ALL,
    "cxr.dicom.isolated_child:main": {"01", "02"},
    "cxr.dicom.gdcm_child:main": {"01", "02"},
    "cxr.splits:make_folds": {"04"},
    "cxr.kaggle.folder:write_kernel": {"08"},
    "cxr.submission.files:write": {"08"},
    "cxr.report:write_report": set(),
    "cxr.report:report.html.j2": set(),
}


@pytest.fixture(scope="module")
def used() -> dict[str, set[str]]:
    """Names of the definitions that each notebook uses."""
    return {notebook.name[:2]: set(used_code(notebook.path)) for notebook in chain.read_notebooks()}


def test_what_each_edit_of_the_package_makes_run_again(used: dict[str, set[str]]):
    everything = set().union(*used.values(), used_code(PACKAGE / "report.py"))
    wrong = {}
    for definition, notebooks in EDITS.items():
        again = {number for number, names in used.items() if definition in names}
        if again != notebooks or (notebooks and definition not in everything):
            wrong[definition] = sorted(again)
    assert not wrong


def test_the_page_s_template_belongs_to_the_report():
    assert "cxr.report:report.html.j2" in used_code(PACKAGE / "report.py")


def test_training_counts_for_the_training_alone(used: dict[str, set[str]]):
    training = {number for number, names in used.items() if any("detector.training" in n for n in names)}
    assert training == {"06"}


FILES = {
    "__init__.py": "",
    "rooms/__init__.py": "from small.rooms.a import one\nfrom small.rooms.b import two as second\n",
    "rooms/a.py": '"""Doc."""\nfrom small import words\n\nLIMIT = 3\n\n\ndef one():\n    return LIMIT\n\n\n'
    "def other():\n    return words.NAME\n",
    "rooms/b.py": "from small.rooms.a import other\n\n\ndef two():\n    return other()\n\n\n"
    "def three():\n    return 3\n",
    "words.py": 'NAME = "x"\nAGE = 1\n',
    "register.py": "KNOWN = {}\n",
    "effects.py": "from small import register\n\nregister.KNOWN['a'] = 1\n",
    "child.py": "def main():\n    return 1\n\n\nmain()\n",
    "parent.py": 'import subprocess\n\n\ndef start():\n    subprocess.run(["python", "-m", "small.child"])\n',
    "page.py": 'from pathlib import Path\n\nPAGE = Path(__file__).with_suffix(".html")\n',
    "page.html": "<p>\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A package of a few definitions."""
    for name, text in FILES.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "small"


CASES = [
    # the notebook's code, the file, what is edited in it, whether the notebook runs again
    ("from small.rooms import one\none()", "rooms/a.py", ("LIMIT = 3", "LIMIT = 4"), True),
    ("from small.rooms import one\none()", "rooms/a.py", ("LIMIT = 3", "LIMIT = 3  # px"), False),
    ("from small.rooms import one\none()", "rooms/a.py", ('"""Doc."""', '"""Other."""'), False),
    ("from small.rooms import one\none()", "rooms/a.py", ("words.NAME", "words.AGE"), False),
    ("from small.rooms import one\none()", "rooms/b.py", ("other()", "other() + 1"), False),
    ("from small import rooms\nrooms.second()", "rooms/b.py", ("other()", "other() + 1"), True),
    ("from small import rooms\nrooms.second()", "words.py", ('"x"', '"y"'), True),
    ("from small import rooms\nrooms.second()", "words.py", ("AGE = 1", "AGE = 2"), False),
    ("from small import rooms\nrooms.second()", "rooms/b.py", ("return 3", "return 4"), False),
    ("import small.rooms.b as b\nb.three()", "rooms/b.py", ("return 3", "return 4"), True),
    ("import small.rooms.b\nsmall.rooms.b.three()", "rooms/b.py", ("return 3", "return 4"), True),
    ("from small.rooms import b\nshow(b)", "rooms/b.py", ("return 3", "return 4"), True),
    ("from small.rooms.b import *", "rooms/b.py", ("return 3", "return 4"), True),
    ("from small import effects", "effects.py", ("= 1", "= 2"), True),
    ("from small import parent\nparent.start()", "child.py", ("return 1", "return 2"), True),
    ("from small import page\npage.PAGE", "page.html", ("<p>", "<b>"), True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].splitlines()[-1]}, {c[1]}: {c[2][1]}")
def test_an_edit_counts_where_it_is_used_and_nowhere_else(
    small: Path, tmp_path: Path, case: tuple[str, str, tuple[str, str], bool]
):
    code, file, (old, new), again = case
    notebook = tmp_path / "01_eda.py"
    notebook.write_text(code)
    before = code_digest(notebook, small)
    text = (small / file).read_text()
    assert old in text
    (small / file).write_text(text.replace(old, new))
    assert (code_digest(notebook, small) != before) == again
