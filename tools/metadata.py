"""kernel-metadata.json, checked here, because Kaggle ignores what it does not understand.

A misspelt key does nothing there, a title that does not match makes another kernel, a source with
a prefix is dropped, and a retired accelerator is exchanged; each of these is an error here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.settings import METADATA

SHAPES = (
    "NvidiaTeslaT4",
    "NvidiaTeslaT4Highmem",
    "NvidiaTeslaA100",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
RETIRED = {"NvidiaTeslaP100": "NvidiaTeslaT4"}
TITLE_LENGTH = 50  # characters, at most
CPU = "cpu"

_SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
_OWNED = rf"[A-Za-z0-9_-]+/{_SLUG}"
_SOURCES = {
    "dataset_sources": (rf"{_OWNED}(/\d+)?", "owner/dataset"),
    "competition_sources": (_SLUG, "competition"),
    "kernel_sources": (_OWNED, "owner/kernel"),
    "model_sources": (r"[\w-]+/[\w.-]+/[\w.-]+/[\w.-]+/\d+", "owner/model/framework/variation/1"),
}
_PREFIX = re.compile(
    r"^(https?://)?((www\.)?kaggle\.com/)?(datasets|competitions|c|code|kernels|models)/"
)
_REQUIRED: dict[str, type] = {
    "id": str,
    "title": str,
    "code_file": str,
    "language": str,
    "kernel_type": str,
    "is_private": bool,
    "enable_gpu": bool,
    "enable_internet": bool,
}
_OPTIONAL: dict[str, type] = {
    **dict.fromkeys(_SOURCES, list),
    "machine_shape": str,
    "enable_tpu": bool,
    "keywords": list,
    "docker_image": str,
    "docker_image_pinning_type": str,
}


@dataclass(frozen=True)
class Metadata:
    """What Kaggle runs the script with; every field was checked."""

    slug: str
    owner: str
    title: str
    code_file: Path
    is_private: bool
    enable_internet: bool
    machine_shape: str
    sources: dict[str, list[str]]
    keywords: list[str] = field(default_factory=list)
    docker_image: str = ""
    docker_image_pinning_type: str = ""


def load(folder: Path) -> Metadata:
    """Read and check the metadata in ``folder``.

    Raises:
        UserError: something is wrong; the message names all of it.
    """
    path = folder / METADATA
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError) as failure:
        raise UserError(
            f"{path} cannot be read: {failure}.",
            "JSON knows no comment, and no comma before a closing bracket.",
        ) from failure
    if not isinstance(found, dict):
        raise UserError(f"{path} should hold a JSON object.")
    problems = list(_shape_problems(found)) or list(_value_problems(found, folder))
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    owner, _, slug = found["id"].rpartition("/")
    return Metadata(
        slug=slug,
        owner=owner,
        title=found["title"],
        code_file=folder / found["code_file"],
        is_private=found["is_private"],
        enable_internet=found["enable_internet"],
        machine_shape=found.get("machine_shape", SHAPES[0] if found["enable_gpu"] else CPU),
        sources={name: list(found.get(name, [])) for name in _SOURCES},
        keywords=list(found.get("keywords", [])),
        docker_image=found.get("docker_image", ""),
        docker_image_pinning_type=found.get("docker_image_pinning_type", ""),
    )


def accelerator(name: str) -> str:
    """The accelerator's name as Kaggle spells it, or ``cpu``.

    Raises:
        UserError: there is none of that name, or it is retired.
    """
    spelt = {shape.lower(): shape for shape in (*SHAPES, *RETIRED, CPU)}.get(name.lower(), name)
    if problem := _accelerator_problem(spelt):
        raise UserError(f"{problem}.")
    return spelt


def title_slug(title: str) -> str:
    """The slug that Kaggle makes of a title."""
    from slugify import slugify

    return slugify(title)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} appears twice")
    return found


def _shape_problems(found: dict[str, Any]) -> Iterator[str]:
    """Keys that are unknown or missing, and values of the wrong type."""
    known = _REQUIRED | _OPTIONAL
    for name in found:
        if name == "id_no":
            yield "id_no would win over id; remove it"
        elif name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            yield f"{name!r} is no key" + (f", did you mean {near[0]!r}?" if near else "")
    for name in _REQUIRED:
        if name not in found:
            yield f"{name} is missing"
    for name, kind in known.items():
        if name in found and type(found[name]) is not kind:
            words = {str: "a string", bool: "true or false", list: "a list of strings"}
            yield f"{name} should be {words[kind]}"
        elif name in found and kind is list and not all(type(v) is str for v in found[name]):
            yield f"{name} should be a list of strings"


def _value_problems(found: dict[str, Any], folder: Path) -> Iterator[str]:
    slug = found["id"].rpartition("/")[2]
    if not re.fullmatch(rf"([A-Za-z0-9_-]+/)?{_SLUG}", found["id"]) or not 5 <= len(slug) <= 50:
        yield f"id {found['id']!r} should be a slug of 5 to 50 letters, digits and hyphens"
    elif slug.endswith(("-resumed", "-notebook")):
        yield f"id {found['id']!r} ends as those do that --resume and --notebook make"
    elif title_slug(found["title"]) != slug:
        yield (
            f"the title {found['title']!r} makes the slug {title_slug(found['title'])!r}, "
            f"but id says {slug!r}; Kaggle would make another kernel"
        )
    if not 5 <= len(found["title"]) <= TITLE_LENGTH:
        yield f"title should have 5 to {TITLE_LENGTH} characters"
    code = folder / found["code_file"]
    if not code.is_file() or not code.resolve().is_relative_to(folder.resolve()):
        yield f"code_file {found['code_file']!r} is no file of this project"
    if found["language"] != "python":
        yield "language should be 'python'"
    if found["kernel_type"] != "script":
        yield "kernel_type should be 'script' (push-kernel --notebook makes a notebook of it)"
    if found.get("enable_tpu"):
        yield "enable_tpu should be false, the kernel trains on GPUs"
    shape = found.get("machine_shape")
    if shape is not None and (problem := _accelerator_problem(shape)):
        yield problem
    elif shape is not None and found["enable_gpu"] == (shape == CPU):
        yield f"machine_shape {shape!r} does not go with enable_gpu {found['enable_gpu']}".lower()
    if found.get("docker_image_pinning_type", "latest") not in ("original", "latest"):
        yield "docker_image_pinning_type should be 'original' or 'latest'"
    for name, (pattern, example) in _SOURCES.items():
        for source in found.get(name, []):
            if re.fullmatch(pattern, source):
                continue
            bare = _PREFIX.sub("", source).rstrip("/")
            hint = f"write {bare!r}" if re.fullmatch(pattern, bare) else f"as in {example!r}"
            yield f"{name} holds {source!r}; {hint}"


def _accelerator_problem(shape: str) -> str:
    if shape in RETIRED:
        return f"{shape} is retired; use {RETIRED[shape]}"
    if shape.startswith("Tpu"):
        return f"{shape} is a TPU, and the kernel trains on GPUs; use {SHAPES[0]}"
    if shape not in (*SHAPES, CPU):
        return f"{shape!r} is no accelerator; there are {', '.join(SHAPES)} and {CPU}"
    return ""
