"""What a score of the competition is compared with."""

from __future__ import annotations

from tools import runs
from tools.settings import Settings

REPORTED = Settings.competition  # what the published recipe was submitted to,
REPORT_SCORE = 0.16737  # and its best public score there (RMSE)


Measures = dict[str, float | None]


def yardsticks(competition: str) -> Measures:
    """The scores to compare with; None where there is none.

    The harmonic fill's is the lowest that `tools probe` found: written in a wrong way, it is worse.
    """
    scores = [
        runs.number(entry, "score")
        for entry in runs.submissions(runs.root())
        if entry.get("competition") == competition and isinstance(entry.get("probe"), dict)
    ]
    harmonic = min((score for score in scores if score is not None), default=None)
    return {"report": REPORT_SCORE if competition == REPORTED else None, "harmonic": harmonic}


def ratios(score: float | None, measures: Measures) -> dict[str, float | None]:
    """A score divided by each yardstick; None where one of both is not known, or 0."""
    return {
        f"ratio_to_{name}": None if score is None or not measure else score / measure
        for name, measure in measures.items()
    }
