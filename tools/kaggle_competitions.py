"""Competitions on Kaggle: data files, submissions and their scores, the leaderboard."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kagglesdk.competitions.types.competition_api_service import (
    ApiCreateCodeSubmissionRequest,
    ApiCreateSubmissionRequest,
    ApiDownloadDataFilesRequest,
    ApiGetLeaderboardRequest,
    ApiGetSubmissionLimitsRequest,
    ApiGetSubmissionRequest,
    ApiListSubmissionsRequest,
    ApiStartSubmissionUploadRequest,
)

from tools import transfer
from tools.console import plain
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError

API = "competitions.competition_api_client"  # of the public client


@dataclass(frozen=True)
class Limits:
    """How often the team may submit."""

    today: int
    total: int
    allowed_now: int


@dataclass(frozen=True)
class Submission:
    """A submission as Kaggle sees it; status is PENDING, COMPLETE or ERROR."""

    ref: int
    status: str
    score: float | None
    private_score: float | None  # told once the competition has ended
    error: str
    date: str  # ISO 8601, UTC; "" if it is not told
    file_name: str
    description: str
    team: str

    @property
    def outcome(self) -> dict[str, Any]:
        """What becomes of it, as the ledger notes it."""
        names = ("status", "score", "private_score", "error")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Entry:
    """A team on the leaderboard, best first."""

    team: str
    score: float


class Competitions:
    """The competitions that a signed-in user can reach; ``competition`` is always a slug."""

    def __init__(self, kaggle: Kaggle) -> None:
        self._kaggle = kaggle

    def limits(self, competition: str) -> Limits:
        """How many submissions are left.

        Raises:
            NoAccessError: the team may not submit at all.
        """
        answer = self._ask(
            competition,
            "asking for the submissions left",
            "get_submission_limits",
            ApiGetSubmissionLimitsRequest,
        )
        found = Limits(answer.num_today or 0, answer.num_total or 0, answer.num_allowed_now or 0)
        if not found.allowed_now and not found.total:
            raise NoAccessError(
                f"Kaggle allows no submission to {competition}.",
                f"Were the rules accepted at {_rules(competition)} , and does it go on?",
            )
        return found

    def upload_submission(
        self, competition: str, file: Path, advance: transfer.Advance = lambda count: None
    ) -> str:
        """Upload a submission's file and return its token; nothing is submitted yet."""
        answer = self._ask(
            competition,
            f"announcing {file.name}",
            "start_submission_upload",
            ApiStartSubmissionUploadRequest,
            file_name=file.name,
            content_length=file.stat().st_size,
            last_modified_epoch_seconds=int(file.stat().st_mtime),
        )
        transfer.upload(
            answer.create_url,
            file,
            self._kaggle.settings,
            advance=advance,
            patience=self._kaggle.patience,
        )
        return answer.token

    def create_submission(self, competition: str, token: str, message: str) -> tuple[int, str]:
        """Submit an uploaded file. Returns the submission's reference and Kaggle's words.

        Raises:
            UncertainError: it is not known whether Kaggle took it.
        """
        answer = self._ask(
            competition,
            "submitting",
            "create_submission",
            ApiCreateSubmissionRequest,
            repeatable=False,
            blob_file_tokens=token,
            submission_description=message,
        )
        return _reference(answer.ref), plain(answer.message)

    def create_code_submission(
        self, competition: str, kernel: str, version: int, file_name: str, message: str
    ) -> tuple[int, str]:
        """Submit a kernel version's output. Returns the reference and Kaggle's words.

        Raises:
            UncertainError: it is not known whether Kaggle took it.
        """
        owner, slug = kernel.split("/")
        answer = self._ask(
            competition,
            f"submitting {kernel} v{version}",
            "create_code_submission",
            ApiCreateCodeSubmissionRequest,
            repeatable=False,
            kernel_owner=owner,
            kernel_slug=slug,
            kernel_version=version,
            file_name=file_name,
            submission_description=message,
        )
        return _reference(answer.ref), plain(answer.message)

    def submission(self, ref: int) -> Submission:
        """One submission.

        Raises:
            NotFoundError: there is none; a new one may take a moment to appear.
        """
        doing, method = f"asking for submission {ref}", f"{API}.get_submission"
        return _submission(self._kaggle.ask(doing, method, ApiGetSubmissionRequest, ref=ref))

    def submissions(self, competition: str) -> Iterator[Submission]:
        """The team's submissions, newest first."""
        for answer in self._pages(
            competition,
            f"listing the submissions to {competition}",
            "list_submissions",
            ApiListSubmissionsRequest,
        ):
            yield from map(_submission, answer.submissions or [])

    def leaderboard(self, competition: str) -> list[Entry]:
        """The public leaderboard, best first; teams without a score are left out."""
        rows = []
        for answer in self._pages(
            competition,
            f"reading the leaderboard of {competition}",
            "get_leaderboard",
            ApiGetLeaderboardRequest,
            override_public=True,
        ):
            for row in answer.submissions or []:
                if (score := _number(row.score)) is not None:
                    rows.append(Entry(plain(row.team_name), score))
        return rows

    def data_address(self, competition: str) -> str:
        """A signed address of all files of a competition in one archive."""
        response = self._ask(
            competition,
            f"asking for the files of {competition}",
            "download_data_files",
            ApiDownloadDataFilesRequest,
        )
        with response:
            return transfer.check_address(response.url, self._kaggle.settings)

    def _ask(self, competition: str, doing: str, method: str, kind: Any, **fields: Any) -> Any:
        with _explained(competition, doing):
            return self._kaggle.ask(
                doing, f"{API}.{method}", kind, competition_name=competition, **fields
            )

    def _pages(
        self, competition: str, doing: str, method: str, kind: Any, **fields: Any
    ) -> Iterator[Any]:
        with _explained(competition, doing):
            yield from self._kaggle.pages(
                doing, f"{API}.{method}", kind, competition_name=competition, **fields
            )


@contextlib.contextmanager
def _explained(competition: str, doing: str) -> Iterator[None]:
    """Say what a refusal by Kaggle mostly means where a competition is concerned."""
    try:
        yield
    except NotFoundError as missing:
        raise NotFoundError(
            f"Kaggle found nothing when {doing} (competition {competition!r}).",
            "Check `competition` in tools.toml.",
        ) from missing
    except NoAccessError as denied:
        raise NoAccessError(
            denied.message,
            f"Were the rules accepted at {_rules(competition)} , and is the slug right?",
        ) from denied


def _rules(competition: str) -> str:
    return f"https://www.kaggle.com/competitions/{competition}/rules"


def _submission(answer: Any) -> Submission:
    return Submission(
        ref=_reference(answer.ref),
        status=answer.status.name,
        score=_number(answer.public_score),
        private_score=_number(answer.private_score),
        error=plain(answer.error_description),
        date=f"{answer.date:%Y-%m-%dT%H:%M:%SZ}" if answer.date else "",
        file_name=plain(answer.file_name),
        description=plain(answer.description),
        team=plain(answer.team_name),
    )


def _reference(found: Any) -> int:
    """A submission's number; 0 for what is none."""
    return found if type(found) is int and found > 0 else 0


def _number(found: Any) -> float | None:
    try:
        value = float(found or "")
    except (OverflowError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
