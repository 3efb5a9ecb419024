"""What all commands share: the application, arguments that several take, and a way to say a line."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cxr",
    help="Find thoracic abnormalities on chest radiographs. Not a medical device.",
    epilog="With --debug, anywhere in a command, all that is logged is shown, and where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"cxr {metadata.version('cxr')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


Overrides = Annotated[
    list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="Set a parameter; may be repeated.")
]
ParameterFile = Annotated[Path, typer.Argument(metavar="PARAMS.yaml", help="Parameter file.")]


def _processes(number: int) -> int:
    if number < 1 and number != -1:
        raise typer.BadParameter(f"expected -1 or a number from 1, got {number}")
    return number


Jobs = Annotated[int, typer.Option(callback=_processes, help="Processes; -1 for one a core.")]


def say(line: str) -> None:
    """Print a line at once, also where the output is a file or a pipe."""
    print(line, flush=True)
