"""What a score of the competition is compared with."""

from __future__ import annotations

from tools import runs

REPORT_SCORE = 0.16737  # the published recipe's best public score (RMSE)


def harmonic_score(competition: str) -> float | None:
    """The lowest score that a harmonic fill of `tools probe` had there; None before there is one.

    Written in a wrong way, the same fill scores worse.
    """
    scores = [
        runs.number(entry, "score")
        for entry in runs.submissions(runs.root())
        if entry.get("competition") == competition and isinstance(entry.get("probe"), dict)
    ]
    return min((score for score in scores if score is not None), default=None)


def ratios(score: float | None, competition: str) -> dict[str, float | None]:
    """A score divided by each yardstick; None where one of both is not known, or 0."""
    measures = {"report": REPORT_SCORE, "harmonic": harmonic_score(competition)}
    return {
        f"ratio_to_{name}": None if score is None or not measure else score / measure
        for name, measure in measures.items()
    }
