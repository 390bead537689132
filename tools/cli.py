"""The commands and their options, and nothing else.

Each command imports what it runs when it runs, so that help is instant and needs no credentials.
"""

from __future__ import annotations

import sys
from pathlib import Path
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


@app.command("make-dataset")
def make_dataset(
    paths: Annotated[
        list[Path], typer.Argument(metavar="[PHOTOS] OUT", help="Folder of photos, and dataset.")
    ],
    sample: Annotated[
        bool, typer.Option("--sample", help="Make the embedded sample; give OUT alone.")
    ] = False,
    test_per_class: Annotated[
        int | None, typer.Option(min=1, help="Pictures a class in the test set. [default: 50]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the holes.")] = 0,
    json: Json = False,
) -> None:
    """Make a dataset in the competition's layout from a folder with one subfolder a class.

    Example: tools make-dataset ~/photos data/animals
    """
    from tools.datasets import run_make_dataset

    if len(paths) != (1 if sample else 2):
        raise typer.BadParameter("give PHOTOS and OUT, or --sample and OUT")
    run_make_dataset(None if sample else paths[0], paths[-1], sample, test_per_class, seed, json)


@app.command("dry-run")
def dry_run(
    data: Annotated[
        Path | None, typer.Option(help="A dataset. [default: the embedded sample]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Images a class; 0: all. [default: 32 of --data]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps. [default: 300]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/dry-run/run, made anew]")
    ] = None,
    preset: Annotated[str, typer.Option(help="The kernel's preset.")] = "report",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the kernel, name=value.")
    ] = None,
    json: Json = False,
) -> None:
    """Run the kernel here on a small subset, and score it beside the baselines.

    Example: tools dry-run --data data/animals --limit 50 --steps 500
    """
    from tools.dry_run import run_dry_run

    run_dry_run(data, limit, steps, out, preset, set_ or [], json)


@app.command()
def sweep(
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Values of a setting, name=a,b; all combinations are run."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A dataset. [default: the embedded sample]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 1,
    budget: Annotated[str, typer.Option(help="Of each run: steps (2000) or minutes (30m).")] = "5m",
    limit: Annotated[int, typer.Option(min=0, help="Images a class; 0: all.")] = 0,
    name: Annotated[str, typer.Option(help="Folder under runs/sweep to go on in.")] = "latest",
    local: Annotated[bool, typer.Option("--local", help="Run on this machine.")] = True,
    json: Json = False,
) -> None:
    """Run variants of the kernel at equal budget; one table and one plot.

    Example: tools sweep --local --set preset=report,best --set width=32 --budget 10m
    """
    from tools.sweep import run_sweep

    run_sweep(data, set_ or [], seeds, budget, limit, name, json)
