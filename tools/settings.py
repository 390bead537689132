"""The project's settings: one small TOML file, with TOOLS_* variables above it.

``tools.toml`` stands beside ``kernel-metadata.json``. Nothing secret is kept there: Kaggle's and
Google's own files and variables hold the credentials.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.console import note, plain
from tools.errors import UserError
from tools.files import at_home, write_whole

FILE = "tools.toml"
METADATA = "kernel-metadata.json"


@dataclass(frozen=True)
class Settings:
    """What a project can set; each field is also the variable TOOLS_<FIELD>."""

    competition: str = "photo-reconstruction"
    """The competition's slug, as in its address; empty where the data is a dataset's."""
    channel_order: str = "bgr"
    """Which colour is channel 0 in a submission: bgr or rgb."""
    value_scale: str = "unit"
    """How a submission's values are scaled: unit (pixel / 255) or minmax (per channel)."""
    data: str = "data"
    """The folder of the competition's data; a relative one is below the project's."""
    timeout: float = 60.0
    """Seconds without a byte after which a request counts as lost."""
    retry_seconds: float = 120.0
    """Seconds for which a request that fails is tried again."""
    poll_seconds: float = 5.0
    """Seconds between the first two questions for a status; the pause grows to a minute."""
    kaggle_endpoint: str = ""
    """A Kaggle server on this machine, for tests; set by TOOLS_KAGGLE_ENDPOINT alone."""

    def __post_init__(self) -> None:
        """Check every value; :exc:`ValueError` names the setting."""
        if not re.fullmatch(r"([a-z0-9][a-z0-9-]{1,98})?", self.competition):
            raise ValueError(
                f"competition = {self.competition!r} is not a competition's slug, "
                "the last part of its address"
            )
        if not self.data.strip():
            raise ValueError("data names no folder")
        for name, choices in {
            "channel_order": ("bgr", "rgb"),
            "value_scale": ("unit", "minmax"),
        }.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} = {value!r} is none of {', '.join(choices)}")
        for name in ("timeout", "retry_seconds", "poll_seconds"):
            value = getattr(self, name)
            if not 0 <= value < 1e6 or (name == "timeout" and value == 0):
                raise ValueError(f"{name} = {value} is no sensible number of seconds")
        if self.kaggle_endpoint and not on_this_machine(self.kaggle_endpoint):
            raise ValueError(
                f"kaggle_endpoint = {self.kaggle_endpoint!r} is not on this machine, "
                "and credentials go nowhere else than to Kaggle"
            )

    def required_competition(self) -> str:
        """The competition's slug.

        Raises:
            UserError: the project does without one.
        """
        if not self.competition:
            raise UserError(f"{FILE} names no competition.", "Set `competition` to its slug.")
        return self.competition

    def data_folder(self, project: Path) -> Path:
        """Where the competition's data is."""
        return project / at_home(Path(self.data))


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def on_this_machine(url: str) -> bool:
    """Whether ``url`` is plain HTTP to a loopback address given in digits."""
    try:
        parts = urlsplit(url)
        loopback = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
    return parts.scheme == "http" and loopback and not (parts.username or parts.password)


def project_folder() -> Path:
    """The folder of the project: the nearest one upwards that holds kernel-metadata.json.

    Raises:
        UserError: there is none.
    """
    here, own = Path.cwd(), Path(__file__).resolve().parent.parent
    for folder in (here, *here.parents):
        if (folder / METADATA).is_file():
            return folder
    known = f", as {own}" if (own / METADATA).is_file() else ""
    raise UserError(
        f"There is no {METADATA} in {here} or above it.", f"Change to the project's folder{known}."
    )


def _typed(name: str, value: Any, source: str) -> Any:
    kind = type(FIELDS[name].default)
    try:
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is str and isinstance(value, str):
            return str(value)
    except (OverflowError, TypeError, ValueError):
        pass
    wanted = {str: "text", float: "a number"}[kind]
    raise UserError(f"{source}: {name} should be {wanted}, not {plain(repr(value))}.")


def load(folder: Path | None = None) -> Settings:
    """The settings of the project in ``folder``: defaults, then tools.toml, then TOOLS_*.

    Raises:
        UserError: the file is no TOML, or a setting is unknown or ill-typed.
    """
    import tomllib

    path = (folder or project_folder()) / FILE
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (RecursionError, ValueError) as failure:  # what is no UTF-8 too
            remedy = 'Text stands in quotes: name = "value".'
            raise UserError(f"{path} is no valid TOML: {failure}.", remedy) from failure
        known = [name for name in FIELDS if name != "kaggle_endpoint"]
        for name, value in found.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                remedy = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."
                raise UserError(f"{path}: {name!r} is not a setting.", remedy)
            values[name] = _typed(name, value, str(path))
    variables = {f"TOOLS_{name.upper()}": name for name in FIELDS}
    for variable, value in os.environ.items():
        if variable in variables:
            values[variables[variable]] = _typed(variables[variable], value, variable)
        elif near := difflib.get_close_matches(variable, variables, 1, 0.85):
            raise UserError(f"{variable} is not a setting.", f"Did you mean {near[0]}?")
    try:
        return Settings(**values)
    except ValueError as failure:
        raise UserError(f"{failure}.", f"Correct it in {path} or in TOOLS_*.") from failure


def store(folder: Path | None = None, **changes: Any) -> Path:
    """Change settings in tools.toml; comments and everything else in it stay.

    Returns:
        The file's path.

    Raises:
        UserError: a value is not valid, or the file cannot be read or written; it is unchanged.
    """
    import tomlkit
    import tomlkit.exceptions

    path = (folder or project_folder()) / FILE
    try:
        Settings(**{name: _typed(name, value, FILE) for name, value in changes.items()})
    except ValueError as failure:
        raise UserError(f"{failure}.") from failure
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        document = tomlkit.parse(text)
    except (tomlkit.exceptions.TOMLKitError, UnicodeDecodeError) as failure:
        raise UserError(f"{path} is no valid TOML: {failure}.") from failure
    document.update(changes)
    write_whole(path, tomlkit.dumps(document))
    for name in changes:
        if (variable := f"TOOLS_{name.upper()}") in os.environ:
            note(f"{variable} is set and goes before {path}: unset it")
    return path
