"""Follow a run: its status, its log, and its end. Always that of one version."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tools import console, log_stream, logs, runs
from tools.errors import DeadlineError, NetworkError, RefusedError, RunFailedError
from tools.kaggle_client import NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels, State
from tools.runs import Run
from tools.sessions import connect, keep_log, running, state_of

UNKNOWN = "UNKNOWN"  # what Kaggle could not be asked
DENIED = 5  # answers in a row that a run which was seen does not exist, before they are believed


def show_status(reference: str | None, as_json: bool) -> None:
    """Print what a run is doing."""
    run = runs.find(reference)
    kernels = connect()
    state = state_of(kernels, run)
    progress = None
    if state.status == "RUNNING":
        progress = logs.progress(logs.decode(_so_far(kernels, run)))
    if as_json:
        console.print_json(
            {
                "kernel": run.kernel,
                "version": run.version,
                "status": state.status,
                "ended": state.ended,
                "failure": state.failure,
                "progress": vars(progress) if progress else None,
                "url": run.url,
                "pushed_at": run.push.get("pushed_at"),
            }
        )
        return
    sys.stdout.write(f"{run} {state.status}\n")
    if progress:
        console.note(f"step {progress.step:,} of {progress.steps:,} | {progress.detail}")
    if state.failure:
        console.note(state.failure)
    console.note(_next_step(run, state))


def show_log(reference: str | None, follow: bool, as_json: bool) -> None:
    """Print a run's log, or follow it until the run has ended."""
    run = runs.find(reference)
    kernels = connect()
    if follow:
        with console.way_back(_goes_on(run, "logs --follow")):
            for event in _events(kernels, run):
                if as_json:
                    console.print_json_line(vars(event))
                else:
                    sys.stdout.write(logs.decode([event]))
                    sys.stdout.flush()
        return
    state = state_of(kernels, run)
    stored = kernels.log(run.kernel, run.version) if state.ended else ""
    keep_log(run, stored)
    events = logs.parse(stored) if state.ended else _so_far(kernels, run)
    if as_json:
        console.print_json([vars(event) for event in events])
    else:
        text = logs.decode(events)
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    if not events:
        hint = "it has ended" if state.ended else f"follow it live: tools logs --follow {run.short}"
        console.note(f"The log of {run} is empty; {hint}.")


def _events(kernels: Kernels, run: Run) -> Iterator[logs.Event]:
    """What a run writes, as it comes, until it has ended."""
    ask, poll = _steady(kernels, run), kernels.settings.poll_seconds
    ask()  # what cannot be seen at all is told before anything is waited for
    return log_stream.follow(kernels, run.kernel, run.version, lambda: ask().ended, poll)


def _steady(kernels: Kernels, run: Run) -> Callable[[], State]:
    """Asks for a run's state; once it was seen, an outage or a few refusals make it UNKNOWN."""
    last: State | None = None
    denied = 0

    def ask() -> State:
        nonlocal last, denied
        try:
            last, denied = running(kernels, run), 0
        except (NetworkError, NoAccessError, NotFoundError) as failure:
            denied += isinstance(failure, RefusedError)
            if last is None or denied == DENIED:
                raise
            if last.status != UNKNOWN:
                console.note(f"{failure.message} {run} goes on all the same; asking again.")
            last = State(UNKNOWN)
        return last

    return ask


def _so_far(kernels: Kernels, run: Run) -> list[logs.Event]:
    return log_stream.so_far(kernels, run.kernel, run.version, min(2.0, kernels.settings.timeout))


def wait_for(reference: str | None, hours: float, as_json: bool) -> None:
    """Wait until a run has ended, and print how."""
    run = runs.find(reference)
    kernels = connect()
    report(run, wait(kernels, run, hours), as_json)


def report(run: Run, state: State, as_json: bool) -> None:
    """Print how a run ended; :exc:`RunFailedError` if it failed."""
    if as_json:
        console.print_json(
            {"kernel": run.kernel, "version": run.version, "status": state.status, "url": run.url}
            | {"failure": state.failure}
        )
    elif state.status == "COMPLETE":
        sys.stdout.write(f"{run} {state.status}\n")
        console.note(_next_step(run, state))
    if state.status != "COMPLETE":
        words = state.failure or state.status
        raise RunFailedError(
            f"{run} failed: {words.rstrip('.')}.",
            f"Its log: tools logs {run.short}; what it left: tools fetch-outputs {run.short}",
        )


def wait(
    kernels: Kernels,
    run: Run,
    hours: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> State:
    """Ask until a run has ended; the pauses grow from ``poll_seconds`` to a minute.

    Raises:
        DeadlineError: it is still going after ``hours``.
        UserError: it was saved without being run.
    """
    deadline, pause, seen = clock() + hours * 3600, kernels.settings.poll_seconds, ""
    ask = _steady(kernels, run)
    with console.way_back(_goes_on(run, "wait")), _progress(kernels, run) as told:
        while True:
            state = ask()
            if state.status not in (seen, UNKNOWN):
                pause, seen = kernels.settings.poll_seconds, state.status
                if not state.ended:
                    told(state.status)
            if state.ended:
                break
            left = deadline - clock()
            if left <= 0:
                raise DeadlineError(
                    f"{run} is still {seen or UNKNOWN} after {hours:g} h.",
                    f"It goes on; come back with tools wait {run.short}",
                )
            sleep(min(pause, left))
            pause = min(60.0, pause * 1.5)
    if state.status != "COMPLETE":
        with contextlib.suppress(NetworkError, RefusedError):  # how it ended is what counts
            text = keep_log(run, kernels.log(run.kernel, run.version))
            if text.strip():
                console.note(logs.last_words(text))
    return state


@contextlib.contextmanager
def _progress(kernels: Kernels, run: Run) -> Iterator[Callable[[str], None]]:
    """A bar that the kernel's own lines move, read by a thread; gives what shows a new status."""
    ended = threading.Event()
    with console.progress_bar() as bar:
        task = bar.add_task(str(run), total=None, detail="")

        def rest(seconds: float) -> None:
            if ended.wait(seconds):
                raise InterruptedError

        def read() -> None:
            poll = max(kernels.settings.poll_seconds, 1.0)
            with contextlib.suppress(Exception):  # the bar is a comfort; the status decides
                # To its last line, or until the wait has ended, which alone asks for the state.
                for event in log_stream.follow(
                    kernels, run.kernel, run.version, lambda: False, poll, rest
                ):
                    if found := logs.progress(event.text):
                        bar.update(
                            task, completed=found.step, total=found.steps, detail=found.detail
                        )

        def told(status: str) -> None:
            bar.update(task, description=f"{run} {status}")
            if bar.disable:
                console.note(f"{run} {status}")

        if not bar.disable:
            threading.Thread(target=read, daemon=True).start()
        try:
            yield told
        finally:
            ended.set()


def _goes_on(run: Run, command: str) -> str:
    return f"{run} goes on. Come back with: tools {command} {run.short}"


def _next_step(run: Run, state: State) -> str:
    if not run.push.get("run", True):
        return "It was saved without running; to run it: tools push-kernel"
    if state.status == "COMPLETE":
        return f"Fetch what it made: tools fetch-outputs {run.short}"
    if state.ended:
        return f"Why: tools logs {run.short}"
    return f"Wait for it: tools wait {run.short}   or look: {run.url}"
