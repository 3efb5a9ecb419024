"""Kernels for Kaggle: written here, run there.

Here: `metadata` holds Kaggle's rules, `settings` says what a kernel does, `folder` writes the kernel and
`kit` the data set with detectors. There: `inputs` finds what is mounted, `opening` is the first minute,
`training` and `inference` are the two kinds of session, and `child` works in processes of its own.
"""

from cxr.kaggle.folder import INFERENCE_TITLE, TITLE, write_kernel
from cxr.kaggle.inputs import find_input
from cxr.kaggle.metadata import (
    ACCELERATORS,
    COMPETITION,
    DEFAULT_ACCELERATOR,
    KERNEL_METADATA,
    NO_USER,
    Listing,
)
from cxr.kaggle.settings import SESSION_MINUTES, Settings

__all__ = [
    "ACCELERATORS",
    "COMPETITION",
    "DEFAULT_ACCELERATOR",
    "INFERENCE_TITLE",
    "KERNEL_METADATA",
    "NO_USER",
    "SESSION_MINUTES",
    "TITLE",
    "Listing",
    "Settings",
    "find_input",
    "write_kernel",
]
