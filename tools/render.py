"""The kernel's script with one line changed, checked before anything is sent."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import console
from tools.errors import UserError

LINE = re.compile(r"^OVERRIDES: dict\[str, object\] = \{\}(?=\s|$)", re.MULTILINE)
SECONDS = 300  # for the kernel to import TensorFlow and print its configuration


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings from ``name=value``: finite numbers, true, false and null are such, the rest text.

    Raises:
        UserError: something has no ``=``, or a name appears twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UserError(f"{pair!r} is not a setting.", "Write it as --set name=value.")
        if name in found:
            raise UserError(f"--set names {name} twice.")
        try:
            words = {"true": "true", "false": "false", "none": "null"}
            word = words.get(text.lower(), text)
            value = json.loads(word, parse_float=_finite, parse_constant=_finite)
        except ValueError:
            value = text
        found[name] = text if isinstance(value, dict) else value
    return found


def _finite(text: str) -> float:
    """A number that can be written in Python and in JSON; :exc:`ValueError` for any other."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def read(path: Path) -> str:
    """The script's text; :exc:`UserError` if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise UserError(f"{path} cannot be read: {failure}.") from failure


def render(source: str, overrides: Mapping[str, Any]) -> str:
    """The script with its one OVERRIDES line holding ``overrides``.

    Raises:
        UserError: there is not exactly one such line, or the result is not valid Python.
    """
    count = len(LINE.findall(source))
    if count != 1:
        raise UserError(
            f"The script has {count} lines that begin with 'OVERRIDES: dict[str, object] = {{}}'.",
            "It needs exactly one, at the start of a line.",
        )
    line = f"OVERRIDES: dict[str, object] = {dict(overrides)!r}"
    rendered = LINE.sub(lambda match: line, source)
    compiled(rendered, "the kernel's script")
    return rendered


def compiled(source: str, name: str) -> None:
    """Compile ``source`` without running it; :exc:`UserError` names the line that is wrong."""
    try:
        compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as failure:
        line = getattr(failure, "lineno", None)
        where = f"line {line} of {name}" if line else name
        raise UserError(f"{where} is not valid Python: {failure.args[0]}.") from failure


@dataclass(frozen=True)
class Config:
    """The settings that make a run the run it is, and those that each session may change."""

    run: dict[str, Any] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, Any]:
        """Both."""
        return self.run | self.session


def effective_config(rendered: str, folder: Path) -> Config:
    """The configuration that the rendered script says it will run with.

    Empty, with a note, where TensorFlow is not installed: Kaggle has it, a laptop need not.

    Raises:
        UserError: the script refuses a setting; the message is the script's own.
    """
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "kernel.py"
        script.write_text(rendered, encoding="utf-8")
        try:
            with console.stderr.status("checking the settings with the kernel"):
                done = subprocess.run(
                    [sys.executable, str(script), "--print-config"],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=SECONDS,
                )
        except subprocess.TimeoutExpired:
            raise UserError(f"The kernel's --print-config took over {SECONDS} s.") from None
    if done.returncode == 0:
        try:
            return Config(**{name: dict(part) for name, part in json.loads(done.stdout).items()})
        except (ValueError, TypeError, AttributeError):
            raise UserError(
                "The kernel's --print-config did not print its settings of run and session."
            ) from None
    said = done.stderr.strip().splitlines() or ["it printed nothing"]
    if said[-1].startswith("ModuleNotFoundError"):
        console.note(f"The settings were not checked here ({said[-1]}).")
        return Config()
    told = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    raise UserError(f"The kernel does not accept its settings: {(told or said)[-1].rstrip('.')}.")


def notebook(rendered: str) -> str:
    """The script's ``# %%`` cells as a notebook; the same text gives the same bytes.

    Each cell is one string: Kaggle answers lists of lines, as files usually have them, with a 500
    (https://github.com/Kaggle/kaggle-cli/issues/574).

    Raises:
        UserError: a cell does not stand on its own as Python.
    """
    import jupytext

    book = jupytext.reads(rendered, fmt="py:percent")
    book.nbformat_minor = 4  # before cells had random ids
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(book.cells, 1):
        cell.pop("id", None)
        if cell.cell_type == "code":
            compiled(cell.source, f"cell {number}")
    return jupytext.writes(book, fmt="ipynb", split_lines=False)
