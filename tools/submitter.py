"""Submits a checked file once, and waits for its score.

What was sent is in the ledger before anything else happens, so that the same command run again
waits on instead of submitting twice. A request whose answer was lost is looked up in Kaggle's own
list of submissions, which may show it late: until it does, or must have, nothing else is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tools import console, runs, settings, submission_file
from tools.errors import (
    DeadlineError,
    NetworkError,
    RefusedError,
    ToolsError,
    UserError,
    VerificationError,
)
from tools.files import alone, sha256, write_whole
from tools.kaggle_client import Kaggle, NotFoundError, UncertainError
from tools.kaggle_competitions import Competitions, Submission
from tools.runs import Noted

INTENT = "submitting.json"
LISTED = 200  # Kaggle's newest submissions that are looked through
LOOKING = 60.0  # seconds for which a submission whose answer was lost is looked for
DOUBT = 300.0  # seconds after which one that Kaggle still does not list was never taken
LOOKS_FIRST = "Run the command again in five minutes: it looks there before it submits."


class Unanswered(NamedTuple):
    """A submission that was sent, and whose answer was lost.

    ``folder`` is the ledger's that it belongs to, ``known`` what Kaggle listed before it.
    """

    folder: Path
    known: list[int]
    facts: dict[str, Any]
    age: float  # seconds


@dataclass(frozen=True)
class Candidate:
    """What is to be submitted.

    ``folder`` is where the ledger notes it; ``kernel`` is (``owner/slug``, version) if Kaggle is to
    take the file from a kernel's output, and None if it is uploaded. ``notes`` go into the ledger.
    """

    checked: submission_file.CheckedFile
    message: str
    folder: Path
    kernel: tuple[str, int] | None
    notes: dict[str, Any]


class Submitter:
    """Submits to one competition, each file once.

    Args:
        chosen: the project's settings.
        timeout: minutes to wait for each score.
        way_back: what a person can do after that.
        once_more: how a person has a file submitted that Kaggle could not score.
    """

    def __init__(
        self,
        chosen: settings.Settings,
        timeout: float,
        way_back: str,
        once_more: str = "To submit the same file once more, add --again.",
    ) -> None:
        self._way_back = way_back
        self._once_more = once_more
        self.kaggle = Competitions(Kaggle(chosen))
        self.competition = chosen.required_competition()
        self._timeout = timeout
        self._poll_seconds = chosen.poll_seconds
        self._intent = runs.root() / INTENT

    def submit(self, candidate: Candidate, *, again: bool = False) -> dict[str, Any]:
        """Submit a file unless that was done before, and wait for its score.

        With ``again``, only a submission of it whose answer was lost counts as done before, and
        that only if Kaggle lists it.

        Returns:
            The ledger's entry: ref, status, scores, rank, teams, what was sent.

        Raises:
            RefusedError: no submission is left today, or Kaggle refused it or could not score it.
            UncertainError: an answer was lost, and Kaggle may list that submission yet.
            DeadlineError: it is not scored yet; the same call waits on.
            NetworkError: the upload failed, or Kaggle could not be reached.
        """
        path, digest = candidate.checked.path, candidate.checked.sha256
        with self._alone():
            found = None if again else self._submitted(digest)
            lost = self._unanswered()
            if lost and (found is None or self._is_of(digest, lost.facts)):
                found = self._settle(lost, digest, again) or found
            if found is None:
                self.require_allowance()
                folder, entry = candidate.folder, self._send(candidate)
            else:
                folder, entry = found
        before = f"{path} was submitted before, as {entry['ref']}"
        if entry["status"] == "PENDING":
            if found is not None:
                console.note(f"{before}: waiting for its score")
            return self.wait_for_score(folder, entry)
        if entry["status"] == "ERROR":
            raise self._not_scored(entry)
        console.note(f"{before}: nothing was sent. To submit it once more, add --again")
        return entry

    def require_allowance(self) -> int:
        """How many submissions are left today.

        Raises:
            RefusedError: none is.
        """
        limits = self.kaggle.limits(self.competition)
        if limits.allowed_now > 0:
            return limits.allowed_now
        raise RefusedError(
            f"No submission to {self.competition} is left: {limits.today} were made today, "
            f"{limits.total} in all.",
            "The day ends at 0:00 UTC; nothing was uploaded.",
        )

    def _alone(self) -> AbstractContextManager[None]:
        """Between it and its answer, a submission is known by the intent alone."""
        waiting = "another `tools submit` is sending: waiting until it has"
        return alone(self._intent.with_suffix(".lock"), waiting)

    def _is_of(self, digest: str, entry: dict[str, Any]) -> bool:
        return entry.get("sha256") == digest and entry.get("competition") == self.competition

    def _submitted(self, digest: str) -> Noted | None:
        """The latest submission of these very bytes, and the ledger's folder that notes it."""
        same = (found for found in runs.every_submission() if self._is_of(digest, found[1]))
        return max(same, key=lambda found: found[1]["at"], default=None)

    def _send(self, candidate: Candidate) -> dict[str, Any]:
        """Submit now; the ledger has it when this returns, and the intent is there until then."""
        checked = candidate.checked
        facts = {
            "competition": self.competition,
            "submitted_at": runs.now(),
            "file": str(checked.path),
            "sha256": checked.sha256,
            "message": candidate.message,
            **candidate.notes,
        }
        token = "" if candidate.kernel else self._upload(checked)
        known = [seen.ref for seen in self._newest(self.competition)]
        folder = str(candidate.folder.relative_to(runs.root()))  # moves along with the project
        intent = {"folder": folder, "known": known, "facts": facts}
        write_whole(self._intent, json.dumps(intent, indent=2, ensure_ascii=False))
        try:
            return self._create(candidate, token, facts)
        except KeyboardInterrupt:
            console.note("\nLooking whether Kaggle took it; Ctrl-C again ends at once.")
            found = None
            with contextlib.suppress(ToolsError, KeyboardInterrupt):
                found = (lost := self._unanswered()) and self._look(lost)
            if found:
                console.note(f"Submission {found[1]['ref']} goes on. {self._way_back}")
            else:
                console.note(f"It is not known whether Kaggle took it. {LOOKS_FIRST}")
            raise

    def _create(self, candidate: Candidate, token: str, facts: dict[str, Any]) -> dict[str, Any]:
        try:
            if candidate.kernel:
                kernel, version = candidate.kernel
                ref, words = self.kaggle.create_code_submission(
                    self.competition,
                    kernel,
                    version,
                    candidate.checked.path.name,
                    candidate.message,
                )
            else:
                ref, words = self.kaggle.create_submission(
                    self.competition, token, candidate.message
                )
        except UncertainError as lost:
            return self._looked_up(lost)
        except ToolsError:  # it was refused, or never reached Kaggle
            self._intent.unlink()
            raise
        if ref:
            return self._note(candidate.folder, {"ref": ref, "status": "PENDING", **facts})
        if words:
            return self._looked_up(RefusedError(f"Kaggle gave no reference: {words}"))
        return self._looked_up(UncertainError("Kaggle answered a submission with nothing"))

    def _looked_up(self, unclear: ToolsError) -> dict[str, Any]:
        """What Kaggle's list has of the submission just sent, whose answer does not tell."""
        os.utime(self._intent)  # its age counts from here: it may have waited to be sent
        lost = self._unanswered()
        found = self._look(lost, LOOKING) if lost else None
        if found is None:
            raise type(unclear)(
                f"{unclear.message.rstrip('.')}, and Kaggle does not list the submission.",
                LOOKS_FIRST,
            ) from unclear
        return found[1]

    def _upload(self, checked: submission_file.CheckedFile) -> str:
        with console.transfer_bar() as bar:
            task = bar.add_task(f"uploading {checked.path.name}", total=checked.size)
            token = self.kaggle.upload_submission(
                self.competition, checked.path, lambda count: bar.advance(task, count)
            )
        if sha256(checked.path) != checked.sha256:
            raise VerificationError(
                f"{checked.path} has changed since it was checked; nothing was submitted.",
                "Run the command again.",
            )
        return token

    def _newest(self, competition: str) -> list[Submission]:
        return list(itertools.islice(self.kaggle.submissions(competition), LISTED))

    def settle(self) -> None:
        """Enter a submission whose answer was lost in the ledger, if Kaggle has it after all.

        Raises:
            UncertainError: Kaggle may list it yet.
        """
        with self._alone():
            if lost := self._unanswered():
                self._settle(lost)

    def _settle(self, lost: Unanswered, digest: str = "", again: bool = False) -> Noted | None:
        """Look for what was lost; returns it if it is of these bytes, and Kaggle has it.

        Raises:
            UncertainError: Kaggle may list it yet, and it is not these bytes that go ``again``.
        """
        mine = self._is_of(digest, lost.facts)
        in_doubt = lost.age < DOUBT and not (mine and again)
        found = self._look(lost, LOOKING if in_doubt else 0)
        if found is None and in_doubt:
            raise UncertainError(
                f"Nothing was sent: the answer to {lost.facts['file']} was lost, and Kaggle, "
                "which may be late, does not list it yet.",
                f"{LOOKS_FIRST} {self._once_more}" if mine else LOOKS_FIRST,
            )
        if found is None:
            console.note("Kaggle does not list what was submitted last, when its answer was lost")
        return found if mine else None

    def _look(self, lost: Unanswered, seconds: float = 0) -> Noted | None:
        """Look whether Kaggle lists it, for so many seconds; if so, enter it in the ledger."""
        until, pause = time.monotonic() + seconds, max(1.0, self._poll_seconds)
        message = console.plain(lost.facts["message"])
        with console.stderr.status("looking whether Kaggle lists the submission"):
            while True:
                for seen in self._newest(lost.facts["competition"]):
                    if seen.ref not in lost.known and seen.description == message:
                        console.note(
                            f"Kaggle had taken submission {seen.ref}, though its answer was lost"
                        )
                        entry = {"ref": seen.ref, "status": "PENDING", **lost.facts}
                        return lost.folder, self._note(lost.folder, entry)
                if (left := until - time.monotonic()) <= 0:
                    return None
                time.sleep(min(pause, left))
                pause *= 1.5

    def _unanswered(self) -> Unanswered | None:
        """The submission whose answer was lost, if there is one.

        Raises:
            UserError: what was noted of it is damaged.
        """
        try:
            age = abs(time.time() - self._intent.stat().st_mtime)
            intent = json.loads(self._intent.read_text(encoding="utf-8"))
            facts = intent["facts"]
            if missing := {"competition", "file", "message", "sha256"} - set(facts):
                raise KeyError(*missing)
            return Unanswered(runs.root() / intent["folder"], intent["known"], facts, age)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise UserError(
                f"{self._intent} is damaged ({failure}); it tells what was last submitted.",
                "Look at the submissions on Kaggle, then delete it.",
            ) from failure

    def _note(self, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
        """Enter a submission in the ledger; what was meant to be sent is settled by it."""
        runs.record_submission(folder, entry)
        self._intent.unlink(missing_ok=True)
        return entry

    def wait_for_score(self, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
        """Wait until Kaggle has scored a submission, and enter what it says.

        Raises:
            RefusedError: Kaggle could not score it.
            DeadlineError: it is not scored yet.
        """
        with console.way_back(f"Submission {entry['ref']} goes on. {self._way_back}"):
            seen = self._wait(entry)
            rank = self._rank(seen)
        # At once: whoever finds a score in the ledger asks for nothing more.
        entry |= seen.outcome | rank
        runs.record_submission(folder, entry)
        if seen.status != "COMPLETE":
            raise self._not_scored(entry)
        return entry

    def _wait(self, entry: dict[str, Any]) -> Submission:
        until = time.monotonic() + self._timeout * 60
        pause, asked = self._poll_seconds, False
        with console.stderr.status(f"waiting for the score of submission {entry['ref']}"):
            while True:
                try:
                    seen = self.kaggle.submission(entry["ref"])
                    if seen.status != "PENDING":
                        return seen
                except NotFoundError:
                    pass  # a new one takes a moment to appear
                except NetworkError as failure:
                    if not asked:
                        raise
                    console.note(f"{failure.message} Asking again.")
                asked = True
                left = until - time.monotonic()
                if left <= 0:
                    raise DeadlineError(
                        f"Kaggle has not scored submission {entry['ref']} in "
                        f"{self._timeout:g} minutes.",
                        self._way_back,
                    )
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, 60)

    def _rank(self, seen: Submission) -> dict[str, Any]:
        """The place on the public leaderboard that a score (RMSE) earns the team."""
        score = seen.score
        if seen.status != "COMPLETE" or score is None:
            return {}
        try:
            rows = self.kaggle.leaderboard(self.competition)
            others = [row for row in rows if row.team != seen.team]
        except (NetworkError, RefusedError) as failure:
            console.note(f"The rank is not known: {failure}")
            return {}
        return {"rank": 1 + sum(row.score < score for row in others), "teams": 1 + len(others)}

    def _not_scored(self, entry: dict[str, Any]) -> RefusedError:
        return RefusedError(
            f"Kaggle could not score submission {entry['ref']} ({entry['file']}): "
            f"{entry.get('error') or 'it gave no reason'}.",
            self._once_more,
        )
