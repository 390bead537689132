"""``tools fetch-outputs``: fetch or list what a run made, bring it on, and tell what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools import console, destinations, manifest, runs, sessions
from tools.destinations import Delivery
from tools.errors import DeadlineError, RunFailedError, ToolsError
from tools.fetching import PARTIAL, Listing, fetch, list_outputs
from tools.files import alone, at_home
from tools.kept import matches, matching
from tools.remote import Origin
from tools.runs import Run

LOGS = ("*.csv", "*.jsonl", "*.log", manifest.NAME)  # what --logs-only fetches of the outputs


def fetch_outputs(
    reference: str | None,
    to: Sequence[str],
    include: Sequence[str],
    logs_only: bool,
    listing: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fetch a run's outputs and its log to a folder and on to destinations, or list them.

    Raises:
        DeadlineError: the run has not ended.
        RunFailedError: it failed; what it left was fetched and marked.
        VerificationError: a file is not what the run's record says, or there is no record.
    """
    run = runs.find(reference)
    chosen, elsewhere = destinations.split(to)
    kernels = sessions.connect()
    patterns = [*include, *(LOGS if logs_only else ())]
    if listing:
        show_listing(run, list_outputs(kernels, run), patterns, as_json)
        return
    sessions.refuse_saved_only(run)
    state = sessions.state_of(kernels, run)
    if not state.ended:
        raise DeadlineError(
            f"{run} is still {state.status}; nothing was fetched.",
            f"Wait for it: tools wait {run.short}",
        )
    origin = Origin(run.kernel, run.version)
    goals = destinations.ready(elsewhere, origin, overwrite)  # before hours of downloads
    folder = run.outputs_folder
    if chosen:
        folder = at_home(Path(destinations.expand(str(chosen), origin))).absolute()
    waiting = f"another `tools fetch-outputs` of {run} goes on: waiting until it has ended"
    failure: ToolsError | None
    with alone(run.folder / "fetch.lock", waiting):
        run = runs.read(run.folder)
        files, failure = fetch(kernels, run, state, folder, patterns, overwrite)
    deliveries: list[Delivery] = []
    if goals and not failure and state.status == "COMPLETE":
        try:
            going = matching(runs.read(run.folder), folder, files, patterns)
            deliveries = destinations.upload(going, origin, goals, overwrite)
        except ToolsError as found:
            failure = found  # what was fetched is told all the same
    show_files(runs.read(run.folder), folder, files, deliveries, as_json)
    if state.status != "COMPLETE":
        raise RunFailedError(
            f"{run} failed ({state.status}); what it left is in {folder}, marked by {PARTIAL}."
            + (f" {failure.message}" if failure else ""),
            f"Its log: {run.folder / 'log.txt'}",
        )
    if failure:
        raise failure


def show_listing(run: Run, listing: Listing, include: Sequence[str], as_json: bool) -> None:
    """Print what Kaggle lists, of what matches."""
    names = [name for name in listing.addresses if matches(name, include)]
    rows = [(name, listing.sizes.get(name)) for name in names]
    if as_json:
        files = [{"name": name, "size": size} for name, size in rows]
        console.print_json({"kernel": run.kernel, "version": run.version, "files": files})
    else:
        console.print_table(
            ("file", "bytes"),
            [(name, f"{size:,}" if size is not None else "?") for name, size in rows],
            title=str(run),
        )
    if listing.refused:
        console.note(f"Not safe to write: {', '.join(ascii(name) for name in listing.refused)}")


def show_files(
    run: Run,
    folder: Path,
    entries: list[dict[str, Any]],
    deliveries: list[Delivery],
    as_json: bool,
) -> None:
    """Print what is in the folder now."""
    if as_json:
        complete = bool(run.outputs.get("complete")) and run.fetched_to == folder
        console.print_json(
            {"kernel": run.kernel, "version": run.version, "folder": str(folder)}
            | {"complete": complete}
            | {"files": [{**entry, "path": str(folder / entry["name"])} for entry in entries]}
            | {"uploads": [delivery._asdict() for delivery in deliveries]}
        )
        return
    console.print_table(
        ("file", "bytes", "sha256", "verified"),
        [
            (e["name"], f"{e['size']:,}", e["sha256"][:12], "yes" if e["verified"] else "no")
            for e in entries
        ],
        title=f"{run} in {folder}",
    )
    if deliveries:
        destinations.show(deliveries, title="uploaded")
