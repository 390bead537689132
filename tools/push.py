"""Push the kernel: render, check, ask what runs, send, and judge the answer."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import console, metadata, render, runs, sessions, settings, watch
from tools.errors import NetworkError, RefusedError, UserError
from tools.files import alone, write_whole
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError, UncertainError
from tools.kaggle_kernels import Kernels, Pushed, Quota
from tools.metadata import CPU, TITLE_LENGTH, Metadata
from tools.runs import Run
from tools.settings import Settings
from tools.versions import INPUT, RESUMED, Version, Versions

MARGIN_HOURS = 0.25
DEFAULT_PRESET = "best"
NOT_FOR_SET = {
    "out": "Kaggle keeps what lies in the working folder.",
    "preset": "Name it with --preset.",
}
FOLDERS = ("data", "members", "resume_from", "start_from")  # settings that name one, or several
SEEN_BY_KAGGLE = ("/kaggle/", "gs://")

Configured = tuple[dict[str, Any], render.Config]  # what is rendered, and what comes of it


@dataclass(frozen=True)
class Plan:
    """What to push, and how."""

    preset: str  # empty: the default one, or that of the version gone on from
    settings: Sequence[str]
    accelerator: str
    timeout: float  # hours
    resume: bool
    notebook: bool
    no_run: bool
    force: bool

    @property
    def own(self) -> dict[str, Any]:
        """What the user sets.

        Raises:
            UserError: a setting is not for Kaggle, or names a folder that Kaggle does not see.
        """
        own = render.parse_settings(self.settings)
        for name, remedy in NOT_FOR_SET.items():
            if name in own:
                raise UserError(f"{name} is not for --set.", remedy)
        for name in FOLDERS:
            told = str(own.get(name, ""))
            if told and not all(path.startswith(SEEN_BY_KAGGLE) for path in told.split(",")):
                raise UserError(
                    f"{name} = {told!r} is no folder that Kaggle sees.",
                    "Name what it holds as a source in kernel-metadata.json, and give "
                    f"--set {name}={INPUT}.",
                )
        return own


@dataclass(frozen=True)
class Project:
    """What a push is made of on this machine."""

    folder: Path
    config: Settings
    meta: Metadata
    source: str

    @classmethod
    def load(cls, accelerator: str) -> Project:
        """Read the settings, the metadata and the script."""
        folder = settings.project_folder()
        config, meta = settings.load(folder), metadata.load(folder)
        if accelerator:
            meta = dataclasses.replace(meta, machine_shape=metadata.accelerator(accelerator))
        return cls(folder, config, meta, render.read(meta.code_file))

    def configure(self, plan: Plan, own: dict[str, Any]) -> Configured:
        """The settings to render, with the user's ``own``, and all that the kernel makes of them.

        Raises:
            UserError: the kernel does not take them.
        """
        overrides = _overrides(plan, self.config, self.meta, own)
        return overrides, render.effective_config(
            render.render(self.source, overrides), self.folder
        )


def push_and_report(plan: Plan, wait_hours: float | None, as_json: bool) -> None:
    """Push, wait for so long if asked to, and print the run."""
    if plan.no_run and wait_hours is not None:
        raise UserError("--no-run leaves nothing to wait for.", "Leave out --no-run or --wait.")
    run = push(plan)
    if wait_hours is not None:
        watch.report(run, watch.wait(sessions.connect(), run, wait_hours), as_json)
    elif as_json:
        console.print_json(run.push)
    else:
        sys.stdout.write(f"{run.kernel}/v{run.version}\n")
        if not plan.no_run:
            console.note(f"Wait for it: tools wait {run.short}")


def push(plan: Plan) -> Run:
    """Push the project's kernel as ``plan`` says, and enter it in the ledger.

    Raises:
        UserError: the metadata, the script or a setting is wrong, or a version still runs.
        RefusedError: Kaggle did not take it, or runs it without one of its sources.
        UncertainError: the connection broke, and Kaggle does not show whether it took it.
    """
    project, own = Project.load(plan.accelerator), plan.own
    # Before anything is asked, so that a mistake is told at once.
    configured = None if plan.resume else project.configure(plan, own)
    kaggle = Kaggle(project.config)
    if project.meta.owner and project.meta.owner != kaggle.user:
        raise UserError(
            f"kernel-metadata.json is {project.meta.owner}'s, but you are {kaggle.user}.",
            "Leave the owner out of id.",
        )
    kernel = f"{kaggle.user}/{project.meta.slug}" + ("-notebook" if plan.notebook else "")
    waiting = "another `tools push-kernel` goes on: waiting until it has ended"
    with alone(runs.root() / "push.lock", waiting):
        run, pushed = _push(plan, project, configured, Kernels(kaggle), kernel)
    _judge_sources(run, pushed)
    return run


def _push(
    plan: Plan, project: Project, configured: Configured | None, kernels: Kernels, kernel: str
) -> tuple[Run, Pushed]:
    versions = Versions(kernels, kernel)
    before = versions.to_go_on_from() if plan.resume else None
    earlier = before.run if before else None
    last = versions.other(before) if before else versions.first
    if not plan.no_run and not plan.force:
        versions.refuse_while_running()
    plan, own = _going_on(plan, project, earlier) if earlier else (plan, plan.own)
    overrides, effective = configured or project.configure(plan, own)
    if earlier and plan.resume:
        _refuse_another_run(effective, earlier, plan)
    quota = None
    if project.meta.machine_shape != CPU and not plan.no_run:
        quota = _quota(kernels, plan)
        overrides["time_budget"] = min(overrides["time_budget"], _budget(_usable(quota)))
    rendered = render.render(project.source, overrides)
    text = render.notebook(rendered) if plan.notebook else rendered

    request = _request(plan, project, last.kernel, before, text)
    pushed = _send(kernels, last, text, request)
    console.note(f"Pushed {pushed.kernel} v{pushed.version}: {pushed.url}")
    if quota:
        ends = "; training ends before" if _usable(quota) < plan.timeout else ""
        console.note(f"{quota.left:.1f} h of GPU time are left this week{ends}.")
    hours, budget = effective.all.get("hours") or 0, overrides["time_budget"]
    if hours > budget:
        console.note(f"hours = {hours:g}, of {budget:g} a session: go on with --resume.")
    if pushed.kernel != last.kernel:
        console.note(f"Kaggle did not name it {last.kernel}; the next push goes there as well.")
    if not before and len(_title(project.meta, last.kernel)) > TITLE_LENGTH - len(RESUMED):
        console.note(f"Its title leaves no room for --resume, which adds {RESUMED!r}: shorten it.")
    try:
        run = runs.record_push(
            pushed.kernel,
            pushed.version,
            asked=last.asked,
            url=pushed.url,
            script_sha256=hashlib.sha256(text.encode()).hexdigest(),
            overrides=overrides,
            set=own,
            config=effective.all and effective.all | {"time_budget": overrides["time_budget"]},
            accelerator=project.meta.machine_shape,
            run=not plan.no_run,
            resumed_from=before.reference if before else None,
        )
    except UserError as failure:
        raise UserError(
            failure.message,
            "Kaggle has taken the push all the same: mend that, and enter it in the ledger with "
            f"`tools runs --add {pushed.kernel}/v{pushed.version}`.",
        ) from failure
    write_whole(run.folder / ("kernel.ipynb" if plan.notebook else "kernel.py"), text)
    return run, pushed


def _going_on(plan: Plan, project: Project, before: Run) -> tuple[Plan, dict[str, Any]]:
    """What is planned, and all that the user has set, where it goes on from a version.

    With another preset a new training begins, with that version's network. It keeps what was set
    for the run itself, as the network's width, and not what each session may change, as the steps.
    """
    kept = dict(before.push.get("set") or {})
    if "steps" in plan.own:
        kept.pop("hours", None)  # they would go before the steps
    preset = (before.push.get("overrides") or {}).get("preset")
    if not preset or plan.preset in ("", preset):
        return dataclasses.replace(plan, preset=plan.preset or preset or ""), {**kept, **plan.own}
    plan = dataclasses.replace(plan, resume=False)
    if kept:
        _, effective = project.configure(plan, plan.own)
        kept = {name: value for name, value in kept.items() if name in effective.run}
    said = ", ".join(f"{name}={value}" for name, value in kept.items())
    also = f", set as there: {said}" if said else ""
    console.note(f"Preset {plan.preset} begins with the network of {before}{also}.")
    return plan, {**kept, "start_from": INPUT, **plan.own}


def _overrides(plan: Plan, config: Settings, meta: Metadata, own: dict[str, Any]) -> dict[str, Any]:
    """The settings to render; what the user sets stands above what follows from the plan."""
    overrides = {
        "preset": plan.preset or DEFAULT_PRESET,
        "channel_order": config.channel_order,
        "value_scale": config.value_scale,
        "require_gpu": meta.machine_shape != CPU,
        "time_budget": _budget(plan.timeout),
        **({"resume_from": INPUT} if plan.resume else {}),
        **own,
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
    plan: Plan, project: Project, kernel: str, before: Version | None, text: str
) -> dict[str, Any]:
    """The fields of the request; those that are empty are left to Kaggle."""
    meta, competition = project.meta, project.config.competition
    sources = {
        **meta.sources,
        "kernel_sources": meta.sources["kernel_sources"] + ([before.kernel] if before else []),
        "competition_sources": sorted({*meta.sources["competition_sources"], competition} - {""}),
    }
    gpu = meta.machine_shape != CPU
    optional = {
        "machine_shape": meta.machine_shape if gpu else "",
        "docker_image": meta.docker_image,
        "docker_image_pinning_type": meta.docker_image_pinning_type,
        "kernel_execution_type": "QUICK_SAVE" if plan.no_run else "",
    }
    return {
        "slug": kernel,
        "new_title": _title(meta, kernel),
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


def _title(meta: Metadata, kernel: str) -> str:
    """The title that makes the kernel's slug: the metadata's, and what was added to its slug."""
    added = kernel.split("/")[1].removeprefix(meta.slug).replace("-", " ")
    if len(meta.title + added) > TITLE_LENGTH:
        raise UserError(
            f"The title {meta.title + added!r} is longer than Kaggle's {TITLE_LENGTH} characters.",
            "Shorten title and id in kernel-metadata.json.",
        )
    return meta.title + added


def _refuse_another_run(effective: render.Config, before: Run, plan: Plan) -> None:
    """Refuse what the kernel would refuse hours later: other settings, or nothing left to do."""
    if before.outputs.get("ended") == "complete" and not plan.settings:
        raise UserError(
            f"{before} has done all its {before.outputs.get('steps')} steps.",
            "Go on with more: --set steps=NUMBER or --set hours=NUMBER",
        )
    began = before.push.get("config") or {}
    for name, value in effective.run.items():
        if began and began.get(name) != value:
            raise UserError(
                f"{name} = {value!r}: {before} began with {began.get(name)!r}, "
                "and a run goes on with the settings that it began with.",
                "Leave that out, or push without --resume.",
            )


def _quota(kernels: Kernels, plan: Plan) -> Quota | None:
    """The GPU time of this week; None where Kaggle does not say.

    Raises:
        RefusedError: none is left.
    """
    try:
        quota = kernels.quota(once=True)
    except (NetworkError, RefusedError):
        quota = Quota(0, 0, 0)
    if not quota.allowed:
        console.note("Kaggle did not say how much GPU time is left.")
        return None
    if quota.left < 0.1 and not plan.force:
        reserved = f", {quota.reserved:.1f} reserved by what runs" if quota.reserved else ""
        raise RefusedError(
            "No GPU time is left this week "
            f"({quota.used:.1f} of {quota.allowed:.0f} h are used{reserved}).",
            f"It is renewed on {quota.renewed}." if quota.renewed else "",
        )
    return quota


def _usable(quota: Quota | None) -> float:
    """Hours after which a run would be stopped by the quota, if it is not used up already.

    What other sessions have reserved is mostly far more than they use, and is not taken off.
    """
    unused = quota.allowed - quota.used if quota else 0.0
    return unused if unused > 0.1 else math.inf


def _send(kernels: Kernels, last: Version, text: str, request: dict[str, Any]) -> Pushed:
    """Push after the ``last`` version.

    An answer that was lost, as by Ctrl-C, is made up for by looking at what Kaggle has.
    """
    uncertain: BaseException | None = None
    kernel, page = last.kernel, runs.page(last.kernel)
    pushed = Pushed(kernel, page, 0, "", {})
    try:
        pushed = kernels.save(**request)
    except UncertainError as lost:
        uncertain = UncertainError(
            lost.message,
            f"It is not known whether Kaggle took it: look at {page} ; if it did, "
            f"`tools runs --add {kernel}/v{last.number + 1}` enters it in the ledger.",
        )
    except KeyboardInterrupt as interrupt:
        uncertain = interrupt
    except (NotFoundError, NoAccessError) as refused:
        verified = "Is the account's phone number verified (https://www.kaggle.com/settings)?"
        remedy = _what_to_do(refused.message, page) or verified
        raise type(refused)(refused.message, remedy) from refused
    if pushed.error:
        raise RefusedError(
            f"Kaggle refused {kernel}: {pushed.error.rstrip('.')}.",
            _what_to_do(pushed.error, page),
        )
    if pushed.version:
        return pushed
    try:
        number, source = kernels.newest(kernel) or (0, "")
    except NetworkError as failure:
        raise uncertain or failure from failure
    if last.told and number > last.number and source.split() == text.split():
        return dataclasses.replace(pushed, version=number)
    raise uncertain or RefusedError(
        f"Kaggle gave no version number for {kernel}.", f"Look at {page} ."
    )


def _what_to_do(refusal: str, page: str) -> str:
    """What helps against a refusal, as far as its words tell."""
    if "session count" in refusal.lower():
        return "Wait for one of your running sessions to end."
    if "not found" in refusal.lower():
        return (
            "A push that was refused before may have left an empty notebook: delete it at "
            f"{page} , or change id and title in kernel-metadata.json."
        )
    return ""


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
