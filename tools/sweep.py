"""Variants of the kernel at equal budget, data and seeds: one table and one plot.

Each run lies in a folder of its own, and the kernel resumes it: the same command goes on where an
interrupted one stopped.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools import console, datasets, paired, runs
from tools.errors import UserError
from tools.files import alone, sha256, write_whole
from tools.local_run import kernel_script, run_kernel
from tools.render import parse_settings

FOLDER = Path("sweep")
OPTIONS = {
    "data": "Give --data.",
    "limit": "Give --limit.",
    "out": "Give --name.",
    "seed": "Give --seeds.",
    "steps": "Give --budget.",
    "hours": "Give --budget.",
    "predictor": "The harmonic fill is what every variant is divided by.",
    **dict.fromkeys(("log_every", "validate_every", "checkpoint_every"), "Leave it out."),
}
PROBE_STEPS = 20  # to measure a variant's speed, for a budget in minutes


@dataclass(frozen=True)
class Budget:
    """Either steps, the same for all, or minutes of training."""

    steps: int = 0
    minutes: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``2000`` as steps and ``30m`` as minutes.

        Raises:
            UserError: for anything else.
        """
        if re.fullmatch(r"[1-9]\d*", text):
            return cls(steps=int(text))
        if re.fullmatch(r"\d+(\.\d+)?m", text) and float(text[:-1]) > 0:
            return cls(minutes=float(text[:-1]))
        raise UserError(
            f"--budget {text!r} is neither steps nor minutes.",
            "Give steps (2000) or minutes (30m).",
        )


def variants(assignments: Sequence[str]) -> list[dict[str, str]]:
    """Combine ``name=a,b`` settings to all variants, in the order given.

    Raises:
        UserError: for a text of another form, or a name that appears twice.
    """
    axes: dict[str, list[tuple[str, str]]] = {}
    for text in assignments:
        name, equals, values = text.partition("=")
        if not equals or not name.isidentifier() or "" in values.split(","):
            raise UserError(f"--set {text!r} is not name=a,b.", "For example: --set width=32,64")
        if name in axes:
            raise UserError(f"--set names {name} twice.", f"Give all values in one: {name}=a,b")
        axes[name] = [(name, value) for value in values.split(",")]
    return [dict(combination) for combination in itertools.product(*axes.values())]


def changed(variant: dict[str, str], changes: Sequence[str]) -> list[dict[str, str]]:
    """Change a variant in one way at a time; a change is ``name=value``, or several with spaces.

    Raises:
        UserError: for a text of another form, or a name that appears twice.
    """
    others = []
    for text in changes:
        pairs = [part.partition("=") for part in text.split()]
        if not pairs or any(not (name.isidentifier() and value) for name, _, value in pairs):
            raise UserError(
                f"--change {text!r} is not name=value.", "For example: --change prefill=false"
            )
        names = [name for name, _, _ in pairs]
        if repeated := next((name for name in names if names.count(name) > 1), ""):
            raise UserError(f"--change {text!r} names {repeated} twice.")
        others.append(variant | {name: value for name, _, value in pairs})
    return others


def spell(variant: dict[str, str]) -> str:
    """Name a variant by its settings."""
    return " ".join(f"{name}={value}" for name, value in variant.items()) or "unchanged"


def shared(variants: Sequence[dict[str, str]]) -> dict[str, str]:
    """Settings that all of several variants have in common; none of a single one's."""
    first, *others = variants
    both = (item for item in first.items() if all(item in v.items() for v in others))
    return dict(both) if others else {}


def folder_of(variant: dict[str, str], seed: int, data: Path, limit: int, budget: str) -> str:
    """Name a variant's folder; a digest tells apart what is cut off, data, limits and budgets."""
    name = re.sub(r"[^A-Za-z0-9.=_-]+", "-", spell(variant))
    conditions = (spell(variant), str(data.resolve()), limit, budget)
    digest = hashlib.sha256(repr(conditions).encode()).hexdigest()[:6]
    return f"{name[:150]}-{digest}-seed{seed}"


def refuse_own(variants: Sequence[dict[str, str]]) -> None:
    """Refuse settings that the sweep itself gives every run.

    Raises:
        UserError: naming the option to give instead.
    """
    for name in itertools.chain(*variants):
        if name in OPTIONS:
            raise UserError(f"{name} is the sweep's own to set.", OPTIONS[name])


def steps_for(budget: Budget, settings: dict[str, Any], out: Path) -> int:
    """Return the steps of a run, measured once and written beside it for a budget in minutes."""
    if budget.steps:
        return budget.steps
    plan = out.with_name(f"{out.name}.{budget.minutes:g}m.json")
    if not plan.exists():
        probe = out.with_name(f"{out.name}.probe")
        short = settings | {"steps": PROBE_STEPS, "log_every": PROBE_STEPS // 2, "out": str(probe)}
        run_kernel(short | {"limit": 4, "ensemble": 1}, probe.with_name(f"{probe.name}.log"))
        with open(probe / "training_log.csv", encoding="utf-8") as stream:
            speed = float(list(csv.DictReader(stream))[-1]["images_per_second"])
        config = json.loads((probe / "run.json").read_text(encoding="utf-8"))["config"]
        steps = max(1, round(budget.minutes * 60 * speed / config["batch_size"]))
        write_whole(plan, json.dumps({"images_per_second": speed, "steps": steps}))
    return json.loads(plan.read_text(encoding="utf-8"))["steps"]


def curve(out: Path, batch_size: int) -> list[tuple[int, float]]:
    """Read (images seen, RMSE / harmonic) of each validation of a run, but the untrained one."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        (record["step"] * batch_size, record["validation_ratio"])
        for record in records
        if record["step"] and "validation_ratio" in record
    ]


def summarise(name: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the runs of one variant, one a seed, into one row."""
    rmse = [r["metrics"]["hole_rmse"]["model"] for r in results]
    ratio = [r["metrics"]["ratio_to_harmonic"]["model"] for r in results]
    images = [r["step"] * r["config"]["batch_size"] for r in results]
    return {
        "variant": name,
        "parameters": results[0]["parameters"],
        "images": round(statistics.mean(images)),
        "images_per_second": statistics.mean(
            n / max(r["training_seconds"], 1e-9) for n, r in zip(images, results, strict=True)
        ),
        "rmse": statistics.mean(rmse),
        "ratio": statistics.mean(ratio),
        "deviation": statistics.stdev(ratio) if len(ratio) > 1 else None,
        "seeds": len(results),
    }


def squares(out: Path) -> dict[tuple[str, str], list[float]]:
    """Read each held-out picture's mean square error, the run's and the harmonic fill's."""
    with open(out / "errors.csv", encoding="utf-8", newline="") as stream:
        return {
            (row["class"], row["image"]): [float(row[k]) ** 2 for k in ("rmse", "harmonic_rmse")]
            for row in csv.DictReader(stream)
        }


def difference_error(first: Sequence[Path], other: Sequence[Path]) -> float | None:
    """Standard error of the difference of two variants' RMSE / harmonic; none on other pictures.

    It is over which pictures are held out.
    """
    tables = [[squares(out) for out in outs] for outs in (first, other)]
    pictures = list(tables[0][0])
    if any(table.keys() != tables[0][0].keys() for table in itertools.chain(*tables)):
        return None

    def influence(seeds: Sequence[dict[tuple[str, str], list[float]]]) -> np.ndarray:
        ours, theirs = np.mean([[table[p] for p in pictures] for table in seeds], 0).T
        return paired.rmse_ratio(ours, theirs)[1]

    return paired.standard_error(influence(tables[1]) - influence(tables[0]))


def draw(curves: dict[str, list[list[tuple[int, float]]]], path: Path) -> None:
    """Plot RMSE / harmonic against images seen, a line a run and a colour a variant.

    A second panel shows what lies below the harmonic fill.
    """
    from matplotlib.figure import Figure

    ratios = [ratio for lines in curves.values() for points in lines for _, ratio in points]
    lowest = min(ratios, default=1.0)
    figure = Figure((12, 5.5), layout="constrained")
    whole, near = figure.subplots(1, 2)
    near.set_ylim(min(lowest, 1) - 0.003, 1.003)
    for axes in (whole, near):
        for number, (name, lines) in enumerate(curves.items()):
            # The first, with which the others are compared, is black; then there are ten colours.
            row, hue = divmod(max(0, number - 1), 10)
            color, marker = f"C{hue}" if number else "black", "osD^v"[row % 5]
            for points in lines:
                line = axes.plot(*zip(*points, strict=True), color=color, marker=marker)[0]
                line.set(markersize=4, linewidth=1.5 if number else 3, label=name)
        axes.axhline(1, color="gray", linewidth=0.8, linestyle="--", label="harmonic fill")
        axes.set(xlabel="images seen")
        axes.grid(alpha=0.3)
    whole.set(title="all", ylabel="RMSE over the holes / harmonic fill")
    near.set(title="below the harmonic fill, enlarged")
    named = dict(zip(*reversed(whole.get_legend_handles_labels()), strict=True))
    whole.legend(named.values(), named.keys(), fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120, format="png")
    write_whole(path, stream.getvalue())


def run_variant(
    variant: dict[str, str], seed: int, settings: dict[str, Any], budget: Budget, out: Path
) -> dict[str, Any]:
    """Run one variant with one seed, unless it has been, and return its record.

    Raises:
        UserError: for a mistake that the kernel names, or if the run was stopped.
        RunFailedError: where it fails in another way.
    """
    settings = settings | parse_settings([f"{k}={v}" for k, v in variant.items()])
    settings |= {"seed": seed}
    steps = steps_for(budget, settings, out)
    every = max(1, steps // 10)
    settings |= {"steps": steps, "out": str(out), "checkpoint_every": every}
    settings |= {"validate_every": every, "log_every": max(1, min(100, steps // 20))}
    result = finished(out, settings)
    if result is None:
        console.note(f"{spell(variant)}, seed {seed}: {steps} steps")
        result = run_kernel(settings, out.with_name(f"{out.name}.log"))
    if result["status"] != "complete":
        raise UserError(f"{out} was stopped.", "The same command goes on from there.")
    return result


def run_sweep(
    data: Path | None,
    assignments: Sequence[str],
    changes: Sequence[str],
    seeds: int,
    budget: str,
    limit: int,
    name: str,
    as_json: bool,
) -> None:
    """Run every variant with every seed, and print the table.

    Raises:
        UserError: for settings of another form, or a mistake that the kernel names.
        RunFailedError: where a run fails in another way; the others are kept.
    """
    allowance, combinations = Budget.parse(budget), variants(assignments)
    combinations += changed(combinations[0], changes)
    refuse_own(combinations)
    common = shared(combinations)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"--name {name!r} is no folder name.", "Use letters, digits, - and _.")
    if data is None:
        data = datasets.sample_folder()
    base = runs.root() / FOLDER / name
    settings = {"preset": "best", "data": str(data), "limit": limit}
    rows, curves, folders = [], {}, []
    script, others = kernel_script(), 0
    version = sha256(script)
    with alone(base / ".lock", f"another sweep goes on in {base}: waiting until it has ended"):
        for variant in combinations:
            results, lines = [], []
            outs = [base / folder_of(variant, n, data, limit, budget) for n in range(seeds)]
            for seed, out in enumerate(outs):
                result = run_variant(variant, seed, settings, allowance, out)
                results.append(result)
                others += result["versions"]["script_sha256"] != version
                lines.append(curve(out, result["config"]["batch_size"]))
            named = spell({k: v for k, v in variant.items() if k not in common})
            folders.append(outs)
            row = summarise(named, results)
            rows.append(row)
            row["difference"] = row["ratio"] - rows[0]["ratio"]
            row["difference_error"] = difference_error(folders[0], outs)
            curves[named] = lines
            draw(curves, base / "sweep.png")
    table = {"budget": budget, "data": str(data), "settings": common, "rows": rows}
    table |= {"device": results[0]["device"]}
    write_whole(base / "sweep.json", json.dumps(table, indent=2))
    if others:
        console.note(
            f"{others} of the runs were made by another version of {script}; "
            "--name NEW makes all of them anew"
        )
    if as_json:
        console.print_json(table)
        return
    console.print_table(
        ("variant", "parameters", "images", "img/s", "RMSE", "/ harmonic", "to the first"),
        [
            (
                row["variant"],
                f"{row['parameters']:,}",
                f"{row['images']:,}",
                f"{row['images_per_second']:.1f}",
                f"{row['rmse']:.4f}",
                console.with_error(f"{row['ratio']:.4f}", row["deviation"]),
                console.with_error(f"{row['difference']:+.4f}", row["difference_error"])
                if number
                else "",
            )
            for number, row in enumerate(rows)
        ],
    )
    if seeds > 1:
        console.note("/ harmonic: mean ± deviation over the seeds")
    if len(rows) > 1:
        console.note("to the first: difference ± its standard error over the held-out pictures")
    if common:
        console.note(f"all with {spell(common)}")
    console.note(f"plot: {base / 'sweep.png'}")


def finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a run that is complete with just these settings."""
    path = out / "run.json"
    if not path.is_file() or not (out / "errors.csv").is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    same = all(result["config"].get(name) == value for name, value in settings.items())
    return result if same and result["status"] == "complete" else None
