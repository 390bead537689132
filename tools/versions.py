"""Versions of the project's kernel on Kaggle: those that run, the one to go on from, the next.

By others' accounts Kaggle attaches neither a kernel's output to the kernel itself nor what a
version left that failed. So a training goes back and forth between two kernels, ``slug`` and
``slug-resumed``, each of which goes on from the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools import console, runs
from tools.errors import NetworkError, UserError
from tools.kaggle_client import NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels, State
from tools.runs import Run

RESUMED = "-resumed"
CHECKPOINT = "checkpoint.npz"
INPUT = "/kaggle/input"
BY_HAND = (
    f"to go on from any {CHECKPOINT}, make a dataset of it, name that in kernel-metadata.json and "
    f"push with --set resume_from={INPUT}."
)


@dataclass(frozen=True)
class Version:
    """The newest version of a kernel, as Kaggle and the ledger know it.

    ``kernel`` is what Kaggle made of the name that was ``asked`` for, mostly the same. ``number``
    is 0 where there is no version yet, and ``told`` False where Kaggle failed to say.
    """

    asked: str
    kernel: str
    number: int
    run: Run | None
    told: bool

    def __str__(self) -> str:
        """What messages call it, as ``ada/pix2pix v3``."""
        return f"{self.kernel} v{self.number}"

    @property
    def reference(self) -> str:
        """What commands take, as ``ada/pix2pix/v3``."""
        return f"{self.kernel}/v{self.number}"


class Versions:
    """The versions of the two kernels between which a training goes back and forth."""

    def __init__(self, kernels: Kernels, kernel: str) -> None:
        self._kernels = kernels
        pair = (kernel, kernel + RESUMED)
        # Newest first, without what was pushed from elsewhere: its settings are not known.
        self._known = [run for run in runs.every() if _asked(run) in pair and run.pushed_at]
        self._newest = {name: self._look(name) for name in pair}
        self.first = self._newest[kernel]

    def other(self, version: Version) -> Version:
        """The newest version of the other kernel of the two."""
        return next(other for other in self._newest.values() if other is not version)

    def _look(self, asked: str) -> Version:
        mine = [run for run in self._known if _asked(run) == asked]
        kernel = mine[0].kernel if mine else asked
        numbers = {run.version: run for run in mine if run.kernel == kernel}
        told, found = True, None
        try:
            # What a refused first push leaves behind makes Kaggle fail each time.
            found = self._kernels.newest(kernel, once=not mine)
        except NetworkError as failure:
            console.note(f"{failure.message} Going on without that.")
            told = False
        number = max([found[0] if found else 0, *numbers])
        return Version(asked, kernel, number, numbers.get(number), told)

    def _state(self, kernel: str, version: int) -> State:
        """What a version is doing; one that Kaggle does not show yet is queued."""
        try:
            return self._kernels.state(kernel, version)
        except (NotFoundError, NoAccessError):
            this = (run for run in self._known if (run.kernel, run.version) == (kernel, version))
            return State("QUEUED" if any(run.is_fresh for run in this) else "NEW_SCRIPT")

    def refuse_while_running(self) -> None:
        """Refuse to use GPU time while a newest version, or one not seen to end, still runs.

        Raises:
            UserError: naming the version, and where to wait for it or to stop it.
        """
        here = {(run.kernel, run.version): run for run in self._known}
        suspects = {key for key, run in here.items() if run.may_run}
        suspects |= {(version.kernel, version.number) for version in self._newest.values()}
        for kernel, number in sorted(suspects, reverse=True):
            if number and _running(state := self._state(kernel, number)):
                run = here.get((kernel, number))
                stop = f"Wait for it (tools wait {run.short}), stop" if run else "Stop"
                raise UserError(
                    f"{kernel} v{number} is still {state.status}.",
                    f"{stop} it at {runs.page(kernel)} , or push anyway with --force.",
                )

    def to_go_on_from(self) -> Version:
        """The version whose checkpoint the next push takes: the one that was pushed last.

        A resumption that failed does not stand in the way of what it went on from.

        Raises:
            UserError: there is none, it still runs, or what it left cannot be attached.
        """
        before = self._last()
        other = self.other(before)
        state = self._state(before.kernel, before.number)
        if _running(state):
            known = before.run
            where = f"tools wait {known.short}" if known else runs.page(before.kernel)
            raise UserError(f"{before} has not ended.", f"Wait for it: {where}")
        problem = self._why_not(before, state)
        if problem and _origin(before) == other.reference:
            console.note(f"{before} {problem}. It went on from {other}.")
            before = other
            problem = self._why_not(before, self._state(before.kernel, before.number))
        if problem:
            raise UserError(
                f"There is nothing to resume from: {before} {problem}.",
                f"Push without --resume; {BY_HAND}",
            )
        console.note(f"Going on from {before}.")
        if before.run is None:
            console.note(f"The ledger has no settings of v{before.number}: give them with --set.")
        return before

    def _last(self) -> Version:
        """The version that was pushed to run last, of the newest ones."""
        found = [
            version
            for version in self._newest.values()
            if version.number and not (version.run and not version.run.push.get("run", True))
        ]
        if not found:
            saved = [str(version) for version in self._newest.values() if version.number]
            if saved:
                raise UserError(
                    f"There is nothing to resume from: {' and '.join(saved)} did not run, and "
                    "Kaggle attaches only what a kernel's newest version left.",
                    f"Push without --resume; {BY_HAND}",
                )
            raise UserError(f"There is nothing to resume from: {self.first.asked} has never run.")
        if len(found) == 1:
            return found[0]
        for version, other in (found, found[::-1]):
            if _origin(version) == other.reference:
                return version
        ordered = [run for run in self._known if run in (found[0].run, found[1].run)]
        if len(ordered) < 2:
            raise UserError(
                f"The ledger does not tell which was pushed last, {found[0]} or {found[1]}.",
                f"Name its kernel in kernel_sources of kernel-metadata.json and push with "
                f"--set resume_from={INPUT}.",
            )
        return found[0] if found[0].run is ordered[0] else found[1]

    def _why_not(self, version: Version, state: State) -> str:
        """Why the checkpoint of a version that has ended can't be attached; nothing if it can."""
        if state.status != "COMPLETE" and state.ended:
            return "failed, and Kaggle attaches only what a completed version left"
        files = self._kernels.outputs(version.kernel, version.number)
        left = any(name.rpartition("/")[2] == CHECKPOINT for name, _ in files)
        return "" if left else f"left no {CHECKPOINT}"


def _asked(run: Run) -> str:
    """The name under which a run was pushed; Kaggle may have changed it."""
    asked = run.push.get("asked")
    return asked if isinstance(asked, str) else run.kernel


def _origin(version: Version) -> str:
    """The reference of what this version went on from, as far as the ledger knows."""
    told = version.run.push.get("resumed_from") if version.run else None
    return told if isinstance(told, str) else ""


def _running(state: State) -> bool:
    return not state.ended and state.status != "NEW_SCRIPT"
