"""What a run is doing on Kaggle, and what it has written; the ledger notes both."""

from __future__ import annotations

from tools import logs, runs, settings
from tools.errors import UserError
from tools.files import write_whole
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels, State
from tools.runs import Run


def connect() -> Kernels:
    """A signed-in connection to the kernels, by the project's settings."""
    return Kernels(Kaggle(settings.load()))


def state_of(kernels: Kernels, run: Run) -> State:
    """What a run is doing, noted in the ledger; QUEUED while Kaggle does not show it yet."""
    try:
        state = kernels.state(run.kernel, run.version)
    except (NotFoundError, NoAccessError):  # Kaggle has said either of what it does not show yet
        if not run.is_fresh:
            raise
        return State("QUEUED")
    known = (run.status.get("status"), run.status.get("failure"))
    if known != (state.status, state.failure):
        runs.record_status(run, state.status, state.failure)
    return state


def add(reference: str) -> Run:
    """Enter a version in the ledger that was pushed from elsewhere.

    Raises:
        UserError: it is there already, or is not named by owner/slug/vN.
        NotFoundError, NoAccessError: Kaggle does not show it.
    """
    kernel, version = runs.vacant(reference)
    state = connect().state(kernel, version)
    run = runs.record_push(kernel, version, pushed_at=None, added_at=runs.now())
    runs.record_status(run, state.status, state.failure)
    return runs.read(run.folder)


def running(kernels: Kernels, run: Run) -> State:
    """What a run is doing that will end some time.

    Raises:
        UserError: it was saved only, and will not.
    """
    refuse_saved_only(run)
    state = state_of(kernels, run)
    if state.status == "NEW_SCRIPT" and not run.is_fresh:
        raise UserError(f"{run} was saved, but Kaggle does not run it.", f"See {run.url} .")
    return state


def refuse_saved_only(run: Run) -> None:
    """Refuse a version that was pushed not to run.

    Raises:
        UserError: it was.
    """
    if not run.push.get("run", True):
        raise UserError(f"{run} was saved without running.", "Push it without --no-run.")


def keep_log(run: Run, stored: str) -> str:
    """Write a log, if there is one, into the ledger, as it is and as text; returns the text."""
    text = logs.decode(logs.parse(stored))
    if stored:
        write_whole(run.folder / "log.json", stored)
        write_whole(run.folder / "log.txt", text)
    return text
