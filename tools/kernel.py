"""Push the kernel: render, check, ask what runs, send, and judge the answer."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools import console, metadata, render, runs, settings, watch
from tools.errors import RefusedError, UserError
from tools.files import write_whole
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError, UncertainError
from tools.kaggle_kernels import Kernels, Pushed
from tools.metadata import Metadata
from tools.runs import Run
from tools.settings import Settings

MARGIN_HOURS = 0.25
DEFAULT_PRESET = "best"
INPUT = "/kaggle/input"
CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Plan:
    """What to push, and how."""

    preset: str = ""  # the default one, or the resumed version's
    settings: Sequence[str] = ()
    accelerator: str = ""
    timeout: float = 9.0
    resume: bool = False
    notebook: bool = False
    no_run: bool = False
    force: bool = False


def push_and_report(plan: Plan, wait_hours: float | None, json: bool) -> None:
    """Push, wait for so long if asked to, and print the run."""
    if plan.no_run and wait_hours is not None:
        raise UserError("--no-run leaves nothing to wait for.", "Leave out --no-run or --wait.")
    run = push(plan)
    if wait_hours is not None:
        watch.report(run, watch.wait(watch.connect(), run, wait_hours), json)
    elif json:
        console.print_json(run.push)
    else:
        sys.stdout.write(f"{run.kernel}/v{run.version}\n")
        if not plan.no_run:
            console.note(f"Wait for it: tools wait {run.slug}/v{run.version}")


def push(plan: Plan) -> Run:
    """Push the project's kernel as ``plan`` says, and enter it in the ledger.

    Raises:
        UserError: the metadata, the script or a setting is wrong, or a version still runs.
        RefusedError: Kaggle did not take it, or runs it without one of its sources.
        UncertainError: the connection broke, and Kaggle does not show whether it took it.
    """
    folder = settings.project_folder()
    config = settings.load(folder)
    meta = metadata.load(folder)
    if plan.accelerator:
        meta = dataclasses.replace(meta, machine_shape=metadata.accelerator(plan.accelerator))
    source = render.read(meta.code_file)

    def configure(before: Run | None) -> tuple[dict[str, Any], render.Config]:
        overrides = _overrides(plan, config, meta, before)
        return overrides, render.effective_config(render.render(source, overrides), folder)

    before: Run | None = None
    if not plan.resume:
        overrides, effective = configure(None)  # so that a mistake is told before anything is asked
    kaggle = Kaggle(config)
    kernels = Kernels(kaggle)
    if meta.owner and meta.owner != kaggle.user:
        raise UserError(
            f"kernel-metadata.json is {meta.owner}'s, but you are {kaggle.user}.",
            "Leave the owner out of id.",
        )
    kernel = f"{kaggle.user}/{meta.slug}" + ("-notebook" if plan.notebook else "")
    known = [run for run in runs.every() if run.kernel == kernel]
    previous = max([(kernels.newest(kernel) or (0, ""))[0], *(run.version for run in known)])
    if not plan.no_run and not plan.force:
        _refuse_while_running(kernels, kernel, previous, known)
    if plan.resume:
        _check_resumable(kernels, kernel, previous, known)
        before = next((run for run in known if run.version == previous), None)
        if before is None:
            console.note(f"The ledger has no settings of v{previous}: give them with --set.")
        elif before.outputs.get("ended") == "complete" and not plan.settings:
            raise UserError(
                f"{before} has done all its {before.outputs.get('steps')} steps.",
                "Go on with more: --set steps=NUMBER",
            )
        overrides, effective = configure(before)
        _refuse_another_run(effective, before)
    if meta.machine_shape != metadata.CPU and not plan.no_run:
        left = _gpu_hours_left(kernels, plan)
        overrides["time_budget"] = min(overrides["time_budget"], _budget(left))
    rendered = render.render(source, overrides)
    text = render.notebook(rendered) if plan.notebook else rendered

    sources = {
        **meta.sources,
        "kernel_sources": meta.sources["kernel_sources"] + [kernel] * plan.resume,
        "competition_sources": sorted(
            {*meta.sources["competition_sources"], config.competition} - {""}
        ),
    }
    request = _request(kernel, meta, plan, sources, text)
    pushed = _send(kernels, kernel, text, request, previous)
    console.note(f"Pushed {kernel} v{pushed.version}: {pushed.url}")
    run = runs.record_push(
        kernel,
        pushed.version,
        url=pushed.url,
        kernel_id=pushed.kernel_id,
        script_sha256=hashlib.sha256(text.encode()).hexdigest(),
        overrides=overrides,
        set=_set(plan, before),
        config=effective.all and effective.all | {"time_budget": overrides["time_budget"]},
        accelerator=meta.machine_shape,
        timeout_hours=plan.timeout,
        run=not plan.no_run,
        resumed_from=previous if plan.resume else None,
    )
    write_whole(run.folder / ("kernel.ipynb" if plan.notebook else "kernel.py"), text)
    _judge_sources(run, pushed)
    return run


def _set(plan: Plan, before: Run | None) -> dict[str, Any]:
    """What the user sets, now or for the version that is gone on with."""
    earlier = before.push.get("set", {}) if before else {}
    return {**earlier, **render.parse_settings(plan.settings)}


def _overrides(plan: Plan, config: Settings, meta: Metadata, before: Run | None) -> dict[str, Any]:
    """The settings to render; what the user sets stands above what follows from the plan."""
    preset = before.push.get("overrides", {}).get("preset") if before else None
    overrides = {
        "preset": plan.preset or preset or DEFAULT_PRESET,
        "channel_order": config.channel_order,
        "value_scale": config.value_scale,
        "require_gpu": meta.machine_shape != metadata.CPU,
        "time_budget": _budget(plan.timeout),
        **({"resume_from": INPUT} if plan.resume else {}),
        **_set(plan, before),
    }
    budget = overrides["time_budget"]
    if type(budget) not in (int, float) or not 0 < budget < plan.timeout:
        raise UserError(
            f"time_budget = {budget!r} should be hours, "
            f"fewer than the {plan.timeout:g} of --timeout."
        )
    return overrides


def _budget(hours: float) -> float:
    """Hours of training that leave time for the last evaluation and for saving."""
    return round(hours - min(MARGIN_HOURS, hours / 4), 2)


def _request(
    kernel: str, meta: Metadata, plan: Plan, sources: dict[str, list[str]], text: str
) -> dict[str, Any]:
    """The fields of the request; those that are empty are left to Kaggle."""
    gpu = meta.machine_shape != metadata.CPU
    optional = {
        "machine_shape": meta.machine_shape if gpu else "",
        "docker_image": meta.docker_image,
        "docker_image_pinning_type": meta.docker_image_pinning_type,
        "kernel_execution_type": "QUICK_SAVE" if plan.no_run else "",
    }
    return {
        "slug": kernel,
        "new_title": f"{meta.title} notebook" if plan.notebook else meta.title,
        "text": text,
        "language": "python",
        "kernel_type": "notebook" if plan.notebook else "script",
        "is_private": meta.is_private,
        "enable_gpu": gpu,
        "enable_tpu": False,
        "enable_internet": meta.enable_internet,
        "session_timeout_seconds": round(plan.timeout * 3600),
        "category_ids": meta.keywords,
        **{name.replace("_sources", "_data_sources"): found for name, found in sources.items()},
        **{name: value for name, value in optional.items() if value},
    }


def _running(kernels: Kernels, kernel: str, version: int, known: list[Run]) -> str:
    """What a version is doing, if it has not ended."""
    try:
        state = kernels.state(kernel, version)
    except (NotFoundError, NoAccessError):
        fresh = any(run.version == version and run.is_fresh for run in known)
        return "QUEUED" if fresh else ""
    return "" if state.ended or state.status == "NEW_SCRIPT" else state.status


def _refuse_while_running(kernels: Kernels, kernel: str, newest: int, known: list[Run]) -> None:
    """Refuse to use GPU time while the newest version, or one not seen to end, still runs."""
    others = {run.version for run in known if run.may_run}
    for version in sorted({newest, *others} - {0}, reverse=True):
        if state := _running(kernels, kernel, version, known):
            here = any(run.version == version for run in known)
            wait = f"Wait for it (tools wait {kernel.split('/')[1]}/v{version}), stop"
            wait = wait if here else "Stop"
            raise UserError(
                f"{kernel} v{version} is still {state}.",
                f"{wait} it at https://www.kaggle.com/code/{kernel} , or push anyway with --force.",
            )


def _check_resumable(kernels: Kernels, kernel: str, version: int, known: list[Run]) -> None:
    if not version or _running(kernels, kernel, version, known):
        missing = f"{kernel} v{version} has not ended" if version else f"{kernel} has never run"
        raise UserError(f"There is nothing to resume from: {missing}.")
    files = kernels.outputs(kernel, version)
    if not any(name.rpartition("/")[2] == CHECKPOINT for name, _ in files):
        raise UserError(
            f"There is nothing to resume from: {kernel} v{version} left no {CHECKPOINT}.",
            "Push without --resume.",
        )


def _refuse_another_run(effective: render.Config, before: Run | None) -> None:
    """Refuse to go on with other settings than the run's own: the kernel would, hours later."""
    began = before.push.get("config", {}) if before else {}
    for name, value in effective.run.items():
        if began and began.get(name) != value:
            raise UserError(
                f"{name} = {value!r}: {before} began with {began.get(name)!r}, "
                "and a run goes on with the settings that it began with.",
                "Leave that out, or push without --resume.",
            )


def _gpu_hours_left(kernels: Kernels, plan: Plan) -> float:
    """Hours of GPU time left this week; infinite where Kaggle does not say."""
    quota = kernels.quota()
    if not quota.allowed:
        console.note("Kaggle did not say how much GPU time is left.")
        return math.inf
    if quota.left < 0.1 and not plan.force:
        raise RefusedError(
            f"No GPU time is left this week ({quota.used:.1f} of {quota.allowed:.0f} h are used).",
            f"It is renewed on {quota.renewed}." if quota.renewed else "",
        )
    if quota.left < plan.timeout:
        console.note(f"{quota.left:.1f} h of GPU time are left this week; training ends before.")
    return max(quota.left, 0.1)


def _send(
    kernels: Kernels, kernel: str, text: str, request: dict[str, Any], previous: int
) -> Pushed:
    """Push. An answer that was lost, as by Ctrl-C, is made up for by looking at what Kaggle has."""
    uncertain: BaseException | None = None
    pushed = Pushed("", 0, 0, "", {})
    try:
        pushed = kernels.save(**request)
    except (UncertainError, KeyboardInterrupt) as failure:
        uncertain = failure
    if pushed.error:
        full = "session count" in pushed.error.lower()
        raise RefusedError(
            f"Kaggle refused {kernel}: {pushed.error.rstrip('.')}.",
            "Wait for one of your running sessions to end." if full else "",
        )
    if pushed.version:
        return pushed
    number, source = kernels.newest(kernel) or (0, "")
    if number > previous and source.split() == text.split():
        url = f"https://www.kaggle.com/code/{kernel}"
        return dataclasses.replace(pushed, version=number, url=url)
    raise uncertain or RefusedError(
        f"Kaggle gave no version number for {kernel}.",
        f"Look at https://www.kaggle.com/code/{kernel} .",
    )


def _judge_sources(run: Run, pushed: Pushed) -> None:
    """Fail where Kaggle left a source out; it runs the version all the same."""
    invalid = dict(pushed.invalid)
    if keywords := invalid.pop("keyword", []):
        console.note(f"Kaggle does not know the keywords {', '.join(keywords)}.")
    if invalid:
        missing = ", ".join(f"{kind} {name}" for kind, names in invalid.items() for name in names)
        runs.record_status(run, "QUEUED", f"without {missing}")
        raise RefusedError(
            f"{run} runs without {missing}: Kaggle did not attach it.",
            f"Correct the name or accept the rules; stop the run at {run.url} .",
        )
