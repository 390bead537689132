"""The commands and their options, and nothing else.

Each command imports what it runs when it runs, so that help is instant and needs no credentials.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tools.errors import ToolsError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def main() -> None:
    """Run the command line; a failure is one line on stderr and an exit code."""
    try:
        app()
    except ToolsError as failure:
        from tools import console

        console.error(str(failure))
        sys.exit(failure.exit_code)


@app.callback()
def root() -> None:
    """Train an image-inpainting Pix2Pix on a Kaggle GPU from a laptop, and submit it."""
