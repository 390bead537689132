"""``run.json``: a run's own record, which the kernel writes after everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tools.console import plain
from tools.errors import VerificationError
from tools.files import parse_json, safe

NAME = "run.json"
BYTES = 10_000_000  # far more than any has
LEVELS = 20  # of lists and objects in each other; the kernel writes 4
_OBJECTS = ("metrics", "submission", "config", "versions")
_KEPT = ("steps", "metrics", "submission")


def read(path: Path) -> dict[str, Any]:
    """Read a run's record.

    Raises:
        VerificationError: it is not what the kernel writes.
    """
    try:
        if path.stat().st_size > BYTES:
            raise ValueError("it is too long")
        found = parse_json(path.read_text(encoding="utf-8"))
        if not _is_shallow(found, LEVELS):
            raise ValueError("it is nested too deeply")
        if found["schema"] != 1:
            raise ValueError(f"its schema is {plain(found['schema'], 20)}")
        for name in _OBJECTS:
            if not isinstance(found.get(name, {}), dict):
                raise ValueError(f"{name} is no object")
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


def _is_shallow(found: Any, levels: int) -> bool:
    parts = found.values() if isinstance(found, dict) else found
    inner = parts if isinstance(found, dict | list) else ()
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in inner)
