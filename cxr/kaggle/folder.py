"""The folder that `kaggle kernels push` takes: metadata, and one notebook that carries the project.

A push sends a single file and the competition runs with the internet off, so the notebook holds the
package and the eight notebooks as an archive in text. Kaggle's image has every library they need.
"""

from __future__ import annotations

import base64
import io
import tarfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat
import yaml

from cxr.chain import notebooks_folder
from cxr.errors import ParameterError
from cxr.files import write_text
from cxr.kaggle.inputs import check_paths
from cxr.kaggle.metadata import KERNEL_METADATA, Listing, mounted
from cxr.kaggle.settings import Settings
from cxr.params import Value
from cxr.rundir import write_json

LARGEST_SOURCE = 1_000_000
"""Bytes of a notebook that Kaggle takes: "The kernel source must be less than 1 megabytes in size"."""

TITLE, INFERENCE_TITLE = "CXR abnormality detector", "CXR abnormality inference"
_PACKAGE = Path(__file__).resolve().parents[1]


def write_kernel(
    values: Mapping[str, Value],
    folder: Path,
    listing: Listing | None = None,
    settings: Settings | None = None,
) -> Path:
    """Write a kernel folder that `kaggle kernels push` takes as it is.

    Args:
        values: Checked parameters the kernel runs with; `data_dir` and `run_dir` are set there.
        folder: Folder to write; made if need be.
        listing: How Kaggle lists the kernel, and what it mounts; by default the competition alone.
        settings: What the kernel does in its session; by default it trains.

    Returns:
        Path of the metadata file.

    Raises:
        ParameterError: A file parameter that is no file on Kaggle, or a package too large to be pushed.
    """
    listing, settings = listing or Listing(TITLE), settings or Settings()
    check_paths(values, mounted([*listing.datasets, *listing.notebooks]) | {listing.competition})
    text = nbformat.writes(_kernel_document(values, listing.title, settings))
    if len(text.encode()) >= LARGEST_SOURCE:
        raise ParameterError(
            f"the kernel would have {len(text.encode()):,} bytes, Kaggle takes less than {LARGEST_SOURCE:,}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    metadata = listing.to_dict()
    write_text(folder / metadata["code_file"], text)
    write_json(folder / KERNEL_METADATA, metadata)
    return folder / KERNEL_METADATA


def _kernel_document(values: Mapping[str, Value], title: str, settings: Settings) -> nbformat.NotebookNode:
    archive = "\n".join(textwrap.wrap(base64.b64encode(_project_archive()).decode("ascii"), 1000))
    fixed = {name: value for name, value in values.items() if name not in ("data_dir", "run_dir")}
    text = (
        _KERNEL.replace("{{TITLE}}", title)
        .replace("{{SCRATCH}}", str(settings.scratch))
        .replace("{{SETTINGS}}", settings.to_json().replace("\\", "\\\\"))
        .replace("{{PARAMETERS}}", yaml.safe_dump(fixed, sort_keys=True).replace("\\", "\\\\"))
        .replace("{{STEPS}}", _INFER if settings.detectors else _TRAIN)
        .replace("{{ARCHIVE}}", archive)
    )
    return jupytext.reads(text, fmt="py:percent")


def _project_archive() -> bytes:
    """The package and the notebooks as a tar archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for base, name, kept in (
            (_PACKAGE, "cxr", {".py", ".j2", ".js", ".css"}),
            (notebooks_folder(), "notebooks", {".py"}),
        ):
            for path in sorted(base.rglob("*")):
                # JupyterLab leaves copies of notebooks in .ipynb_checkpoints.
                parts = set(path.relative_to(base).parts)
                if path.suffix in kept and not {"_notebooks", ".ipynb_checkpoints"} & parts:
                    entry, content = tarfile.TarInfo(f"{name}/{path.relative_to(base)}"), path.read_bytes()
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
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
# Made by `cxr kaggle`. It unpacks the project that it carries. The internet may be off.

# %%
import base64
import io
import os
import sys
import tarfile
from pathlib import Path

PROJECT = Path("{{SCRATCH}}") / "project"

SETTINGS = """\\
{{SETTINGS}}"""

PARAMETERS = """\\
{{PARAMETERS}}"""

# %%
ARCHIVE = """
{{ARCHIVE}}
"""
content = io.BytesIO(base64.b64decode(ARCHIVE))
tarfile.open(fileobj=content, mode="r:xz").extractall(PROJECT, filter="data")
sys.path.insert(0, str(PROJECT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])

{{STEPS}}'''

_TRAIN = """\
# %% [markdown]
# The device, what is mounted, and how long it will take. What is missing stops the kernel here.

# %%
from cxr.kaggle import training

session = training.begin(SETTINGS, PARAMETERS)

# %% [markdown]
# Notebooks 01 to 05: images, features, folds, classifier.

# %%
session.prepare()

# %% [markdown]
# The detectors, on all devices.

# %%
session.train()

# %% [markdown]
# Notebooks 06 to 08 where the training is finished, else 07 and 08 with what there is.

# %%
session.submit()
"""

_INFER = """\
# %% [markdown]
# The device, what is mounted, and how long it will take. What is missing stops the kernel here.

# %%
from cxr.kaggle import inference

session = inference.begin(SETTINGS, PARAMETERS)

# %% [markdown]
# The test images alone.

# %%
session.read_images()

# %% [markdown]
# The boxes, the gate, and the file.

# %%
session.submit()
"""
