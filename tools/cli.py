"""The commands and their options, and nothing else.

Each command imports what it runs when it runs, so that help is instant and needs no credentials.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from tools.errors import ToolsError

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 1 a mistake or a failed check, 2 wrong usage, 3 refused by the service, "
    "4 the run failed, 5 it still goes on, 6 network, 7 sign-in, 8 wrong bytes, 130 Ctrl-C.",
)

SESSION_HOURS = 9.0  # Kaggle has stopped GPU sessions after 9 hours, and after 12
WAIT_HOURS = 13.0  # its longest session, and an hour in its queue

SETTING = "Any setting of the kernel; `kernel/pix2pix.py --help` lists them. May be repeated."

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

KEEPS = "gs://bucket/prefix or drive:FOLDER_ID/path, with {slug} and {version}; may be repeated."

Reference = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="v3, slug/v3 or owner/slug/v3.", show_default="the newest run"
    ),
]

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The competition's data, if it is not where fetch-data put it.",
    ),
]
ScoreTimeout = Annotated[
    float,
    typer.Option(min=0, metavar="MINUTES", help="After which to stop waiting for a score."),
]


def main() -> None:
    """Run the command line; a failure is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="tools", standalone_mode=False))
    except ToolsError as failure:
        words, code = str(failure), failure.exit_code
    except OSError as failure:
        words, code = f"{failure.filename or 'input or output'}: {failure.strerror or failure}.", 1
    except ImportError as failure:
        words = f"{failure}. Install the project again: pip install -r requirements.txt"
        code = 1
    except typer.TyperException as failure:
        words, code = _usage(failure), failure.exit_code
    except typer.Abort:
        words, code = "Stopped before an answer.", 1
    from tools import console

    console.error(words)
    sys.exit(code)


def _usage(failure: typer.TyperException) -> str:
    """Say what is wrong with the command line, and where to look."""
    words = " ".join(failure.format_message().split())
    words += "" if words.endswith((".", "?")) else "."
    context = getattr(failure, "ctx", None)
    asked = f"{context.command_path} --help" if context else "tools --help"
    settable = context and any("--set" in param.opts for param in context.command.params)
    settings = " Settings of the kernel go with --set name=value." if settable else ""
    return f"{words} See {asked}.{settings}"


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("kaggle-inpainting"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Train a network that fills holes in photos on a Kaggle GPU from a laptop, and submit it."""


@app.command()
def doctor(
    to: Annotated[
        list[str] | None, typer.Option(help=f"See whether uploads would work: {KEEPS}")
    ] = None,
    json: Json = False,
) -> None:
    """Check what a push, a submission and training here need; say what to do about each.

    Example: tools doctor --to gs://team-models
    """
    from tools.doctor import diagnose

    diagnose(to or [], json)


@app.command("make-dataset")
def make_dataset(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[PHOTOS] OUT",
            help="A folder with one subfolder per class; the dataset to make.",
        ),
    ],
    sample: Annotated[
        bool, typer.Option("--sample", help="Make the embedded sample; give OUT alone.")
    ] = False,
    test_per_class: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures per class in the test set.",
            show_default="50, of the sample 4",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the shuffling and the holes.")] = 0,
    json: Json = False,
) -> None:
    """Make a dataset in the competition's layout from a folder with one subfolder per class.

    Example: tools make-dataset ~/photos ~/animals
    """
    from tools.datasets import run_make_dataset

    if len(paths) != (1 if sample else 2):
        raise typer.BadParameter("give PHOTOS and OUT, or --sample and OUT.")
    run_make_dataset(None if sample else paths[0], paths[-1], test_per_class, seed, json)


@app.command("dry-run")
def dry_run(
    data: Annotated[
        Path | None, typer.Option(help="A dataset.", show_default="the embedded sample")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Images per class; 0: all.", show_default="32 of --data"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Training steps.", show_default="200")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/dry-run/run, made anew")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="report, best or perceptual; of width 24, unless --set width=…")
    ] = "best",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SETTING)
    ] = None,
    json: Json = False,
) -> None:
    """Run the kernel here on a small subset, and score it beside the baselines.

    Example: tools dry-run --data ~/animals --limit 50 --steps 500
    """
    from tools.dry_run import run_dry_run

    run_dry_run(data, limit, steps, out, preset, set_ or [], json)


@app.command()
def sweep(
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Values of a setting, name=a,b, on top of preset best; all combinations are run.",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help='One more variant: the first with this changed, name=value, or several: "a=1 b=2".'
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A dataset.", show_default="the embedded sample")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant: seeds 0, 1, …")] = 1,
    budget: Annotated[str, typer.Option(help="Of each run: steps (2000) or minutes (30m).")] = "5m",
    limit: Annotated[int, typer.Option(min=0, help="Images per class; 0: all.")] = 0,
    name: Annotated[str, typer.Option(help="Folder under runs/sweep to go on in.")] = "latest",
    local: Annotated[
        bool, typer.Option("--local", help="Run on this machine, so far the only place.")
    ] = True,
    json: Json = False,
) -> None:
    """Run variants of the kernel at equal budget; one table and one plot.

    Pictures differ more than variants do: a difference to the first counts picture by picture.

    Example: tools sweep --local --set preset=report,best --set width=32 --budget 10m
    """
    from tools.sweep import run_sweep

    run_sweep(data, set_ or [], change or [], seeds, budget, limit, name, json)


@app.command("fetch-data")
def fetch_data(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where to put it; becomes the setting `data`, which is `data` at first.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fetch the competition's files that this folder lacks, and unpack them safely.

    Example: tools fetch-data --to ~/photo-reconstruction
    """
    from tools import competition_data

    competition_data.run(to, json)


@app.command()
def probe(
    data: Data = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Submit without asking.")] = False,
    timeout: ScoreTimeout = 30,
    json: Json = False,
) -> None:
    """Find the truth's channel order and value scale by submitting the harmonic fill in each.

    Takes four submissions, on as many days as it needs. The best becomes the project's setting.

    Example: tools probe --yes
    """
    from tools import probe

    probe.run(data, yes, timeout, json)


@app.command("push-kernel")
def push_kernel(
    preset: Annotated[
        str | None,
        typer.Option(
            help="Settings to start from: report, best or perceptual.",
            show_default="best; with --resume, the last version's",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SETTING)
    ] = None,
    accelerator: Annotated[
        str,
        typer.Option(
            help="NvidiaTeslaT4 (two of them), NvidiaL4, …, or cpu; a wrong name lists all.",
            show_default="the metadata's",
        ),
    ] = "",
    timeout: Annotated[
        float,
        typer.Option(min=0.1, max=12, metavar="HOURS", help="After which Kaggle stops the run."),
    ] = SESSION_HOURS,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the training of the last version; with another --preset, begin one "
            "with its network.",
        ),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    notebook: Annotated[
        bool,
        typer.Option("--notebook", help="Push the cells as a notebook, in a kernel of its own."),
    ] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Save the version; don't run it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Push although a version runs, or no GPU time is left.")
    ] = False,
    json: Json = False,
) -> None:
    """Render the kernel with its settings, check it, push it and enter it in the ledger.

    Example: tools push-kernel --set width=128 --set hours=1 --wait
    """
    from tools.push import Plan, push_and_report

    plan = Plan(
        preset=preset or "",
        settings=set_ or [],
        accelerator=accelerator,
        timeout=timeout,
        resume=resume,
        notebook=notebook,
        no_run=no_run,
        force=force,
    )
    push_and_report(plan, WAIT_HOURS if wait else None, json)


@app.command()
def status(run: Reference = None, json: Json = False) -> None:
    """Say what a run is doing, and how far its training is.

    Example: tools status v3
    """
    from tools.watch import show_status

    show_status(run, json)


@app.command()
def wait(
    run: Reference = None,
    timeout: Annotated[
        float, typer.Option(metavar="HOURS", help="After which to stop waiting; the run goes on.")
    ] = WAIT_HOURS,
    json: Json = False,
) -> None:
    """Wait until a run has ended; exit code 4 if it failed, 5 if it still goes on.

    Example: tools wait && tools fetch-outputs
    """
    from tools.watch import wait_for

    wait_for(run, timeout, json)


@app.command()
def logs(
    run: Reference = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing until the run has ended.")
    ] = False,
    json: Json = False,
) -> None:
    """Print a run's log.

    Example: tools logs --follow
    """
    from tools.watch import show_log

    show_log(run, follow, json)


@app.command("fetch-outputs")
def fetch_outputs(
    run: Reference = None,
    to: Annotated[
        list[str] | None,
        typer.Option(help=f"A folder, by default runs/SLUG/vN/outputs; a copy to {KEEPS}"),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only what matches, as *.h5; may be repeated.")
    ] = None,
    logs_only: Annotated[
        bool, typer.Option("--logs-only", help="Only the logs and run.json.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Fetch nothing; list what there is.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of another run.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch what a run made, verified by size and SHA-256; only what is missing or differs.

    Example: tools fetch-outputs v3 --to gs://team-models/{slug}/v{version}
    """
    from tools.outputs import fetch_outputs

    fetch_outputs(run, to or [], include or [], logs_only, list_, overwrite, json)


@app.command()
def submit(
    message: Annotated[
        str, typer.Option("--message", "-m", help="What to remember this submission by.")
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|FILE]",
            help="What a run wrote, or a .csv or .csv.gz.",
            show_default="the newest run",
        ),
    ] = None,
    data: Data = None,
    code: Annotated[
        bool,
        typer.Option(
            "--code", help="Let Kaggle take the run's own file, as code competitions ask."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Submit even what was submitted before.")
    ] = False,
    timeout: ScoreTimeout = 30,
    json: Json = False,
) -> None:
    """Check a submission, submit it once, and wait for its score.

    Run again after an interruption, it waits on and submits nothing twice.

    Example: tools submit --message "best"
    """
    from tools import submit

    submit.run(what, message, data, code, again, timeout, json)


@app.command()
def score(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|FILE]...",
            help="What runs wrote, or files; they are compared with the first.",
            show_default="the newest run",
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Score submissions here, on a dataset whose truth make-dataset kept; submits nothing.

    Example: tools score --data ~/animals runs/harmonic/submission.csv.gz v3
    """
    from tools import score

    score.run(what or [], data, json)


@app.command()
def submissions(json: Json = False) -> None:
    """List what the team has submitted: public and private scores, and what each was made by.

    Example: tools submissions
    """
    from tools.submissions import show_submissions

    show_submissions(json)


@app.command()
def upload(
    run: Reference = None,
    to: Annotated[list[str] | None, typer.Option(help=f"A folder, {KEEPS}")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of another run.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only sign in and ask for the permissions.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring a fetched run to where it is kept, proved by the service's own checksums.

    Example: tools upload v3 --to drive:1AbCdEfGh --to gs://team-models/{slug}/v{version}
    """
    from tools.upload import upload_run

    upload_run(run, to or [], overwrite, check, json)


@app.command("drive-login")
def drive_login(
    client: Annotated[
        Path, typer.Argument(metavar="CLIENT_SECRET", help='JSON of a "Desktop app" OAuth client.')
    ],
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address; for a machine without one.")
    ] = False,
    json: Json = False,
) -> None:
    """Sign in to Google Drive, once.

    Example: tools drive-login client_secret.json
    """
    from tools.drive_login import run_drive_login

    run_drive_login(client, no_browser, json)


@app.command()
def runs(
    add: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/SLUG/VN",
            help="Enter a version first that was pushed from elsewhere, as in the browser.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the runs: status, config, scores, outputs.

    Example: tools runs --add ada/pix2pix-inpainting/v4
    """
    from tools.history import show_runs

    if add is not None:
        from tools.sessions import add as enter

        enter(add)
    show_runs(json)
