"""Versions of the project's kernel: the newest, those that run, the one to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools import console, runs
from tools.errors import NetworkError, UserError
from tools.kaggle_client import NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels, State
from tools.runs import Run

CHECKPOINT = "checkpoint.npz"
NO_CHECKPOINT = f"left no {CHECKPOINT}"
INPUT = "/kaggle/input"
REMEDY = (
    f"Push without --resume; to go on from any {CHECKPOINT}, make a dataset of it, name that in "
    f"kernel-metadata.json and push with --set resume_from={INPUT}."
)


@dataclass(frozen=True)
class Version:
    """A version of a kernel on Kaggle, and what the ledger knows of it."""

    kernel: str
    number: int
    run: Run | None

    def __str__(self) -> str:
        """The reference, as ``ada/pix2pix v3``."""
        return f"{self.kernel} v{self.number}"


def newest(kernels: Kernels, kernel: str) -> int | None:
    """Number of a kernel's newest version; 0 where there is none, None where Kaggle fails to say.

    It does for what a refused first push leaves behind, which is no reason not to push again.
    """
    try:
        return (kernels.newest(kernel) or (0, ""))[0]
    except NetworkError as failure:
        console.note(f"{failure.message} Pushing all the same.")
        return None


def _state(kernels: Kernels, kernel: str, version: int, known: Sequence[Run]) -> State:
    """What a version is doing; one that Kaggle does not show yet is queued."""
    try:
        return kernels.state(kernel, version)
    except (NotFoundError, NoAccessError):
        this = (run for run in known if (run.kernel, run.version) == (kernel, version))
        return State("QUEUED" if any(run.is_fresh for run in this) else "NEW_SCRIPT")


def _running(state: State) -> bool:
    return not state.ended and state.status != "NEW_SCRIPT"


def refuse_while_running(kernels: Kernels, kernel: str, newest: int, known: list[Run]) -> None:
    """Refuse to use GPU time while the newest version, or one not seen to end, still runs.

    Raises:
        UserError: naming the version, and where to wait for it or to stop it.
    """
    here = {(run.kernel, run.version): run for run in known}
    suspects = {key for key, run in here.items() if run.may_run} | {(kernel, newest)}
    for name, version in sorted(suspects, reverse=True):
        if version and _running(state := _state(kernels, name, version, known)):
            wait = f"Wait for it (tools wait {name.split('/')[1]}/v{version}), stop"
            wait = wait if (name, version) in here else "Stop"
            raise UserError(
                f"{name} v{version} is still {state.status}.",
                f"{wait} it at https://www.kaggle.com/code/{name} , or push anyway with --force.",
            )


# Kaggle has been seen to attach neither a kernel's output to the kernel itself nor what a version
# left that failed. So a training goes back and forth between two kernels.


def sibling(kernel: str) -> str:
    """The kernel that goes on with what this one has begun, or the other way round."""
    suffix = "-resumed"
    return kernel.removesuffix(suffix) if kernel.endswith(suffix) else kernel + suffix


def to_go_on_from(kernels: Kernels, kernel: str) -> Version:
    """The version whose checkpoint the next push takes: the last one pushed, if it left one.

    A resumption that failed does not stand in the way of what it went on from.

    Raises:
        UserError: there is none.
    """
    known = [run for run in runs.every() if run.kernel in (kernel, sibling(kernel))]
    last = {name: _last(kernels, name, known) for name in (kernel, sibling(kernel))}
    found = [version for version in last.values() if version.number]
    if not found:
        raise UserError(f"There is nothing to resume from: {kernel} has never run.")
    pushed = [run.kernel for run in known]  # newest first
    before = min(found, key=lambda version: [*pushed, version.kernel].index(version.kernel))
    problem, other = _why_not(kernels, before, known), last[sibling(before.kernel)]
    origin = before.run.push.get("resumed_from") if before.run else None
    if problem == NO_CHECKPOINT and origin == f"{other.kernel}/v{other.number}":
        console.note(f"{before} {problem}; it went on from {other}.")
        before, problem = other, _why_not(kernels, other, known)
    if problem:
        raise UserError(f"There is nothing to resume from: {before} {problem}.", REMEDY)
    console.note(f"Going on from {before}.")
    if before.run is None:
        console.note(f"The ledger has no settings of v{before.number}: give them with --set.")
    return before


def _last(kernels: Kernels, kernel: str, known: list[Run]) -> Version:
    """The newest version of a kernel, numbered 0 where there is none."""
    mine = {run.version: run for run in known if run.kernel == kernel}
    number = max([(kernels.newest(kernel) or (0, ""))[0], *mine])
    return Version(kernel, number, mine.get(number))


def _why_not(kernels: Kernels, version: Version, known: list[Run]) -> str:
    """Why a version's checkpoint can't be attached; nothing if it can."""
    state = _state(kernels, version.kernel, version.number, known)
    if _running(state):
        return "has not ended"
    files = kernels.outputs(version.kernel, version.number)
    if not any(name.rpartition("/")[2] == CHECKPOINT for name, _ in files):
        return NO_CHECKPOINT
    complete = state.status == "COMPLETE"
    return "" if complete else "failed, and Kaggle attaches only what a completed version left"
