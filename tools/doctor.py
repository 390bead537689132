"""What has to be right before a push, checked one by one, with what to do about each."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools import console, destinations, holes, metadata, render, settings
from tools.errors import ToolsError, UserError

REMOTE = ("GPU quota", "competition")  # checks that take credentials
PATIENCE = 5.0  # seconds of tries a question: that Kaggle is out of reach is a finding too
DISK_GB = 5.0  # a run's outputs, twice: while they arrive and where they are kept


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether all is well, and what was found or what to do.

    ``ok`` is None where nothing was looked at, or where what is missing can wait.
    """

    check: str
    ok: bool | None
    words: str


def examine(to: Sequence[str] = ()) -> Iterator[Finding]:
    """Do every check; one that fails does not keep the others from being done."""
    yield _try("kaggle client", partial(_installed, "kaggle", "kagglesdk", "six"))
    yield _try("project", lambda: str(settings.project_folder()))
    configured = _try("settings", _settings)
    yield configured
    yield _try("metadata", _metadata)
    yield _try("disk", _disk)
    yield _try("training here", partial(_installed, "tensorflow", "keras"), missing=None)
    if configured.ok:
        yield _try("data", _data, missing=None)
        yield from _service()
    else:
        yield from _skipped("the settings are wrong", "data", "credentials", *REMOTE)
    for address in to:
        yield _try("destination", partial(destinations.check, address))


def diagnose(to: Sequence[str], as_json: bool) -> None:
    """Print the findings; :exc:`UserError` if one is bad."""
    found = list(examine(to))
    if as_json:
        console.print_json([vars(finding) for finding in found])
    else:
        for finding in found:
            mark = {True: "ok  ", False: "FAIL", None: "--  "}[finding.ok]
            console.stdout.print(f"{mark} {finding.check:14} {finding.words}", markup=False)
    bad = [finding.check for finding in found if finding.ok is False]
    if bad:
        raise UserError(f"{len(bad)} of {len(found)} checks failed: {', '.join(bad)}.")


def _try(check: str, look: Callable[[], str], missing: bool | None = False) -> Finding:
    try:
        return Finding(check, True, look())
    except ToolsError as failure:
        return Finding(check, missing, str(failure))


def _skipped(why: str, *checks: str) -> Iterator[Finding]:
    for check in checks:
        yield Finding(check, None, f"not looked at: {why}")


def _installed(*names: str) -> str:
    """The versions of packages; :exc:`UserError` where one is not there."""
    missing = []
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise UserError(f"Not installed: {', '.join(missing)}.", "pip install -r requirements.txt")
    return ", ".join(versions)


def _settings() -> str:
    found = settings.load()
    return f"competition {found.competition}, {found.channel_order}, {found.value_scale}"


def _metadata() -> str:
    meta = metadata.load(settings.project_folder())
    source = render.read(meta.code_file)
    render.render(source, {})
    size = len(source.encode()) / 1000
    return f"{meta.slug} on {meta.machine_shape}, script of {size:.0f} kB"


def _data() -> str:
    """What ``submit`` and ``probe`` check files against; a push needs none of it."""
    project = settings.project_folder()
    found = holes.read_holes(holes.find_masked_info(settings.load(project).data_folder(project)))
    return f"{len(found.names)} test pictures, {found.source.parent}"


def _disk() -> str:
    free = shutil.disk_usage(settings.project_folder()).free / 1e9
    if free < DISK_GB:
        raise UserError(
            f"Only {free:.1f} GB are free.", f"Outputs may need {DISK_GB:.0f} GB; make room."
        )
    return f"{free:.0f} GB free"


def _service() -> Iterator[Finding]:
    """The checks that need Kaggle; without credentials the later ones are not made."""
    from tools.kaggle_client import Kaggle
    from tools.patience import Patience

    kaggle: list[Kaggle] = []

    def sign_in() -> str:
        config = settings.load()
        kaggle.append(Kaggle(config, Patience(min(PATIENCE, config.retry_seconds))))
        _protected(kaggle[0].key_file)
        return f"of {kaggle[0].user}"

    yield _try("credentials", sign_in)
    if not kaggle:
        yield from _skipped("it takes credentials", *REMOTE)
        return
    from tools.kaggle_competitions import Competitions
    from tools.kaggle_kernels import Kernels

    def quota() -> str:
        found = Kernels(kaggle[0]).quota()
        if not found.allowed:
            return ""
        if found.left < 0.1:
            raise UserError(
                f"No GPU time is left of {found.allowed:.0f} h.", f"Renewed on {found.renewed}."
            )
        return f"{found.left:.1f} of {found.allowed:.0f} h left, renewed on {found.renewed}"

    def competition() -> str:
        config = settings.load()
        if not config.competition:
            return "none is set"
        limits = Competitions(kaggle[0]).limits(config.competition)
        return f"{config.competition}, {limits.allowed_now} submissions left today"

    unknown = "Kaggle tells none: is the phone number verified (https://www.kaggle.com/settings)?"
    finding = _try("GPU quota", quota)
    yield finding if finding.words else Finding(finding.check, None, unknown)
    yield _try("competition", competition)


def _protected(key: Path) -> None:
    """Refuse credential files that others on this machine can read."""
    if os.name == "nt":
        return  # who can read a file is not in its mode
    home = Path.home() / ".kaggle"
    names = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
    for path in (key, *(home / name for name in names)):
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                raise UserError(f"{path} can be read by others.", f"chmod 600 {path}")
