"""The `cxr` command: arguments in, one clear line out when something is wrong.

A module holds a group of commands: `data` makes data folders, `runs` makes runs, `use` uses what
runs made. `application` is what they share, `entry` turns errors into a line and an exit status.

Each command imports what it works with: the libraries take seconds to load, and nobody should
wait for PyTorch to read a help page.
"""

from cxr.cli.application import app
from cxr.cli.entry import main

__all__ = ["app", "main"]
