"""What Kaggle is told of a kernel and of a data set, held to the rules of its client and its site.

The client refuses little and the site answers some mistakes with "internal server error", so the rules
are checked here, before anything is pushed. Where client and site could read a title in two ways, it is
refused: a title of letters, digits, single spaces and hyphens has one slug, whoever makes it.

References:
    `kernels_push`, `validate_dataset_string`, `validate_kernel_string` and `dataset_create_new` of
    github.com/Kaggle/kaggle-cli, and its docs/kernels_metadata.md and docs/datasets_metadata.md.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.errors import ParameterError

COMPETITION = "vinbigdata-chest-xray-abnormalities-detection"
KERNEL_METADATA = "kernel-metadata.json"
DATASET_METADATA = "dataset-metadata.json"
NO_USER = "your-kaggle-name"
DEFAULT_ACCELERATOR = "NvidiaTeslaT4"

ACCELERATORS = {
    "NvidiaTeslaT4": "two T4",
    "NvidiaL4": "four L4",
    "NvidiaL4X1": "one L4",
    "NvidiaTeslaA100": "A100",
    "NvidiaH100": "H100",
    "NvidiaRtxPro6000": "RTX Pro 6000",
}
"""Names of Kaggle's GPU machines (its `machine_shape`); all but the first are for some competitions only."""

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_TITLE = re.compile(r"[A-Za-z0-9]+(?:[ -][A-Za-z0-9]+)*")
_LONGEST = 50


@dataclass(frozen=True)
class Listing:
    """A kernel as Kaggle lists it, and what it mounts.

    Attributes:
        title: Of the kernel; its slug follows from it.
        user: Kaggle user name; empty for the one that the Kaggle client is set up with.
        competition: Competition whose data it reads.
        datasets: Data sets to mount, as `owner/slug` or `owner/slug/version`.
        notebooks: Notebooks whose output to mount, as `owner/slug`.
        accelerator: A name of `ACCELERATORS`; empty for no GPU.
    """

    title: str
    user: str = ""
    competition: str = COMPETITION
    datasets: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    accelerator: str = DEFAULT_ACCELERATOR

    def __post_init__(self) -> None:
        title_slug(self.title, shortest=5)
        _check_user(self.owner)
        if not _SLUG.fullmatch(self.competition):
            raise ParameterError(
                f"competition {self.competition!r}: expected its slug, the last part of its address"
            )
        for dataset in self.datasets:
            check_source("data set", dataset, shortest=3)
        for notebook in self.notebooks:
            check_source("notebook", notebook, shortest=5)
            if notebook == f"{self.owner}/{self.slug}":
                raise ParameterError(f"notebook {notebook}: no kernel mounts its own output; give --title")
        sources = {slug_of(source): source for source in reversed((*self.datasets, *self.notebooks))}
        for source in (*self.datasets, *self.notebooks):
            other = sources[slug_of(source)]
            if other.split("/")[:2] != source.split("/")[:2]:
                raise ParameterError(f"{other} and {source}: two inputs with one slug, mount one of them")
        _check_accelerator(self.accelerator)

    @property
    def slug(self) -> str:
        """The kernel's part of its address."""
        return title_slug(self.title, shortest=5)

    @property
    def owner(self) -> str:
        """The user's part of its address."""
        return self.user or configured_user()

    def to_dict(self) -> dict[str, Any]:
        """Content of `kernel-metadata.json`; the code is in `<slug>.ipynb`."""
        machine = {"machine_shape": self.accelerator} if self.accelerator else {}
        return {
            "id": f"{self.owner}/{self.slug}",
            "title": self.title,
            "code_file": f"{self.slug}.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": bool(self.accelerator),
            "enable_internet": False,
            **machine,
            "competition_sources": [self.competition],
            "dataset_sources": list(dict.fromkeys(self.datasets)),
            "kernel_sources": list(dict.fromkeys(self.notebooks)),
        }


def dataset_metadata(title: str, owner: str) -> dict[str, Any]:
    """Content of `dataset-metadata.json` of a private data set whose slug is its title's.

    Raises:
        ParameterError: The title breaks a rule.
    """
    slug = title_slug(title, shortest=6)
    return {"title": title, "id": f"{owner}/{slug}", "licenses": [{"name": "other"}]}


def title_slug(title: str, *, shortest: int) -> str:
    """The slug of a title.

    Args:
        title: Of a kernel or a data set.
        shortest: Fewest characters that Kaggle takes.

    Raises:
        ParameterError: Too short, too long, or with characters that make the slug uncertain.
    """
    if not shortest <= len(title) <= _LONGEST:
        raise ParameterError(
            f"title {title!r}: Kaggle takes at least {shortest} characters and at most {_LONGEST}, "
            f"got {len(title)}"
        )
    if not _TITLE.fullmatch(title):
        raise ParameterError(
            f"title {title!r}: expected letters a to z, digits, and single spaces or hyphens between them; "
            "Kaggle makes another slug of anything else"
        )
    return title.lower().replace(" ", "-")


def check_source(kind: str, source: str, *, shortest: int) -> None:
    """Hold the name of something to mount to Kaggle's rules.

    Args:
        kind: What it is, for the message; a data set may have a version.
        source: `owner/slug`.
        shortest: Fewest characters of a slug.

    Raises:
        ParameterError: It is no such name; the message says which name was meant, where that is plain.
    """
    owner, *rest = source.split("/")
    versioned = kind == "data set" and len(rest) == 2 and rest[1].isdecimal()
    slug = rest[0] if len(rest) == 1 or versioned else ""
    if not (_SLUG.fullmatch(owner) and _SLUG.fullmatch(slug)):
        likely = "/".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (owner, slug))
        meant = f"; perhaps {likely}" if len(rest) == 1 and all(likely.split("/")) else ""
        raise ParameterError(
            f"{kind} {source!r}: expected owner/slug as in the address of its page, in lower case{meant}"
        )
    if not shortest <= len(slug) <= _LONGEST:
        raise ParameterError(
            f"{kind} {source!r}: Kaggle's slugs have {shortest} to {_LONGEST} characters, got {len(slug)}"
        )


def slug_of(source: str) -> str:
    """The slug of `owner/slug` or `owner/slug/version`."""
    return source.split("/")[1]


def configured_user() -> str:
    """User name from the Kaggle client's own settings, else a name to be replaced."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    settings = Path.home() / ".kaggle" / "kaggle.json"
    try:
        return str(json.loads(settings.read_text(encoding="utf-8"))["username"])
    except (OSError, ValueError, KeyError, TypeError):
        return NO_USER


def mounted(sources: Sequence[str]) -> set[str]:
    """Slugs of sources, which are the names of their folders once mounted."""
    return {slug_of(source) for source in sources}


def _check_user(name: str) -> None:
    if not _SLUG.fullmatch(name):
        raise ParameterError(
            f"user {name!r}: expected the name in your profile's address, lower case; give --user"
        )


def _check_accelerator(name: str) -> None:
    if not name or name in ACCELERATORS:
        return
    if name == "NvidiaTeslaP100":
        raise ParameterError(
            "accelerator NvidiaTeslaP100: it has compute capability 6.0, and the PyTorch of Kaggle's image "
            f"has no code for it; take {DEFAULT_ACCELERATOR}"
        )
    raise ParameterError(f"accelerator: expected one of {', '.join(ACCELERATORS)}, got {name!r}")
