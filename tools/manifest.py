"""``run.json``: a run's own record, which the kernel writes after everything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tools.errors import VerificationError
from tools.files import safe

NAME = "run.json"
BYTES = 10_000_000  # far more than any has
_KEPT = ("step", "steps", "seconds", "metrics", "submission", "device", "config", "versions")


def read(path: Path) -> dict[str, Any]:
    """Read a run's record.

    Raises:
        VerificationError: it is not what the kernel writes.
    """
    try:
        if path.stat().st_size > BYTES:
            raise ValueError("it is too long")
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != 1:
            raise ValueError(f"its schema is {found['schema']!r}")
        for entry in found["files"]:
            if not safe(entry["name"]):
                raise ValueError(f"{ascii(entry['name'])} is no safe name")
            if type(entry["size"]) is not int or entry["size"] < 0:
                raise ValueError("a size is not a number")
            if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
                raise ValueError("a SHA-256 is none")
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise VerificationError(f"{NAME} is not the record of a run: {failure}.") from failure
    return found


def summary(record: dict[str, Any] | None) -> dict[str, Any]:
    """What the ledger keeps of a run's record."""
    if record is None:
        return {}
    return {"ended": record.get("status"), **{k: record[k] for k in _KEPT if k in record}}
