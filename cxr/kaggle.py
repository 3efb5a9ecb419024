"""A Kaggle kernel folder: the metadata and one notebook that carries the whole project.

A push sends a single file and the competition runs with the internet off, so the notebook
holds the package and the eight notebooks as a zip archive in text. Kaggle's image has every
library the chain needs.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jupytext
import nbformat
import yaml

from cxr.chain import notebooks_folder
from cxr.errors import ParameterError
from cxr.files import write_text
from cxr.params import Value
from cxr.rundir import write_json

COMPETITION = "vinbigdata-chest-xray-abnormalities-detection"
KERNEL_METADATA = "kernel-metadata.json"
NO_USER = "your-kaggle-name"
_PACKAGE = Path(__file__).resolve().parent


def write_kernel(
    values: Mapping[str, Value],
    folder: Path,
    *,
    user: str = "",
    title: str = "CXR abnormality detector",
    competition: str = COMPETITION,
    datasets: Sequence[str] = (),
    input_root: str = "/kaggle/input",
    working: str = "/kaggle/working",
    scratch: str = "/kaggle/temp",
) -> Path:
    """Write a kernel folder that `kaggle kernels push` takes as it is.

    Args:
        values: Checked parameters the kernel runs with; `data_dir` and `run_dir` are set there.
        folder: Folder to write; made if need be.
        user: Kaggle user name; by default the one the Kaggle client is set up with.
        title: Title of the kernel; its slug follows from it.
        competition: Competition whose data the kernel reads.
        datasets: Further data sets to mount, as `owner/slug`, for example one with weights.
        input_root: Where Kaggle mounts data.
        working: Where Kaggle keeps what a kernel writes, 20 GB at the most.
        scratch: Where a kernel has more room, gone with its session; the image store goes there.

    Returns:
        Path of the metadata file.

    Raises:
        ParameterError: The title is too short for Kaggle, or a data set is not `owner/slug`.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if len(title) < 5 or not slug:
        raise ParameterError(f"title {title!r}: Kaggle wants at least 5 characters, letters among them")
    for dataset in datasets:
        if dataset.count("/") != 1:
            raise ParameterError(f"data set {dataset!r}: expected owner/slug")
    document = _kernel_document(values, title, competition, input_root, working, scratch)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{slug}.ipynb", nbformat.writes(document))
    metadata = {
        "id": f"{user or _configured_user()}/{slug}",
        "title": title,
        "code_file": f"{slug}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "competition_sources": [competition],
        "dataset_sources": list(datasets),
        "kernel_sources": [],
    }
    write_json(folder / KERNEL_METADATA, metadata)
    return folder / KERNEL_METADATA


def _configured_user() -> str:
    """User name from the Kaggle client's own settings, else a name to be replaced."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    settings = Path.home() / ".kaggle" / "kaggle.json"
    try:
        return str(json.loads(settings.read_text(encoding="utf-8"))["username"])
    except (OSError, ValueError, KeyError):
        return NO_USER


def _kernel_document(
    values: Mapping[str, Value], title: str, competition: str, input_root: str, working: str, scratch: str
) -> nbformat.NotebookNode:
    archive = "\n".join(textwrap.wrap(base64.b64encode(_project_zip()).decode("ascii"), 100))
    fixed = {name: value for name, value in values.items() if name not in ("data_dir", "run_dir")}
    text = (
        _KERNEL.replace("{{TITLE}}", title)
        .replace("{{COMPETITION}}", competition)
        .replace("{{INPUT}}", input_root)
        .replace("{{WORKING}}", working)
        .replace("{{SCRATCH}}", scratch)
        .replace("{{PARAMETERS}}", yaml.safe_dump(fixed, sort_keys=True).replace("\\", "\\\\"))
        .replace("{{ARCHIVE}}", archive)
    )
    return jupytext.reads(text, fmt="py:percent")


def _project_zip() -> bytes:
    """The package and the notebooks as a zip archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for base, name, kept in (
            (_PACKAGE, "cxr", {".py", ".j2", ".js", ".css"}),
            (notebooks_folder(), "notebooks", {".py"}),
        ):
            for path in sorted(base.rglob("*")):
                # JupyterLab leaves copies of notebooks in .ipynb_checkpoints.
                parts = set(path.relative_to(base).parts)
                if path.suffix in kept and not {"_notebooks", ".ipynb_checkpoints"} & parts:
                    entry = zipfile.ZipInfo(f"{name}/{path.relative_to(base)}")
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


_KERNEL = '''\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # {{TITLE}}
#
# Made by `cxr kaggle`. It unpacks the project that it carries, finds the competition's data,
# runs the chain and leaves `submission.csv`. The internet may be off.

# %%
import base64
import io
import os
import shutil
import sys
import zipfile
from pathlib import Path

WORKING = Path("{{WORKING}}")
SCRATCH = Path("{{SCRATCH}}")
INPUT = Path("{{INPUT}}")
COMPETITION = "{{COMPETITION}}"
PROJECT = SCRATCH / "project"
RUN = SCRATCH / "run"

PARAMETERS = """\\
{{PARAMETERS}}"""

# %%
ARCHIVE = """
{{ARCHIVE}}
"""
zipfile.ZipFile(io.BytesIO(base64.b64decode(ARCHIVE))).extractall(PROJECT)
(PROJECT / "params").mkdir(exist_ok=True)

# %%
sys.path.insert(0, str(PROJECT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
from cxr import chain, kaggle, report, schema

data_dir = kaggle.find_input(INPUT, COMPETITION)
parameter_file = PROJECT / "params" / "kernel.yaml"
parameter_file.write_text(PARAMETERS)
places = [f"data_dir={data_dir}", f"run_dir={RUN}"]
values = chain.load_parameters(parameter_file, places)
values["weights"] = kaggle.find_file(INPUT, values["weights"])

# %%
chain.run(values, say=print, notebook_log=sys.stdout)

# %% [markdown]
# What is worth keeping: the submission, the report, and the run without its preprocessed images.

# %%
report.write_report(RUN)
kept = shutil.ignore_patterns(Path(schema.IMAGES_DIR).name)
shutil.copytree(RUN, WORKING / "run", ignore=kept, dirs_exist_ok=True)
print(shutil.copy(RUN / schema.SUBMISSION_CSV, WORKING / "submission.csv"))
'''


def find_input(root: Path, slug: str) -> Path:
    """Folder of a competition or data set below Kaggle's input folder.

    Kaggle has mounted inputs in three ways: `<slug>`, `competitions/<slug>`, and
    `datasets/<owner>/<slug>`.

    Raises:
        ParameterError: It is in none of them; the message lists what is mounted.
    """
    for folder in (root / slug, root / "competitions" / slug, *sorted((root / "datasets").glob(f"*/{slug}"))):
        if folder.is_dir():
            return folder
    mounted = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    raise ParameterError(f"{root}: no input {slug!r}; mounted are {', '.join(mounted) or 'none'}")


def find_file(root: Path, path: str) -> str:
    """A file below Kaggle's input folder, given as `/kaggle/input/<slug>/...` wherever it is mounted.

    Args:
        root: Kaggle's input folder.
        path: Any path; one that exists, is empty or does not start there comes back as it is.

    Raises:
        ParameterError: No input of that name, see `find_input`.
    """
    inside = Path(path)
    if not path or inside.exists() or not inside.is_relative_to(root):
        return path
    slug, *rest = inside.relative_to(root).parts
    return str(find_input(root, slug).joinpath(*rest))
