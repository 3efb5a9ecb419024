"""The chain: execute the numbered notebooks headless, skip what is finished, resume what is not.

A notebook is finished when its manifest (`manifest`) says so; whatever differs from it makes the
notebook run again. `inputs` says what it depends on, `usage` which code it uses, `kernel` executes it.
"""

from cxr.chain.notebooks import Notebook, load_parameters, notebooks_folder, read_notebooks, selected
from cxr.chain.runner import outdated, run
from cxr.chain.values import CLASSES
from cxr.rundir import PARAMETERS

__all__ = [
    "CLASSES",
    "PARAMETERS",
    "Notebook",
    "load_parameters",
    "notebooks_folder",
    "outdated",
    "read_notebooks",
    "run",
    "selected",
]
