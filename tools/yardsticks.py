"""What a score of the competition is compared with."""

from __future__ import annotations

from tools import runs

REPORT_SCORE = 0.16737  # the published recipe's best public score (RMSE)


Measures = dict[str, float | None]


def yardsticks(competition: str) -> Measures:
    """The scores to compare with: the report's, and the harmonic fill's once `tools probe` has it.

    Of the probe's scores the lowest: written in a wrong way, the same fill scores worse.
    """
    scores = [
        runs.number(entry, "score")
        for entry in runs.submissions(runs.root())
        if entry.get("competition") == competition and isinstance(entry.get("probe"), dict)
    ]
    harmonic = min((score for score in scores if score is not None), default=None)
    return {"report": REPORT_SCORE, "harmonic": harmonic}


def ratios(score: float | None, measures: Measures) -> dict[str, float | None]:
    """A score divided by each yardstick; None where one of both is not known, or 0."""
    return {
        f"ratio_to_{name}": None if score is None or not measure else score / measure
        for name, measure in measures.items()
    }
