"""Every speed figure of docs/speed.md: ``make bench`` prints them and writes ``bench.json``.

Two things that are compared run in turn in the same process; a ratio is the median of the ratios
of the pairs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "kernel"))

import pix2pix  # noqa: E402

Row = dict[str, Any]


def row(what: str, ours: str, other: str = "", ratio: float | None = None) -> Row:
    """Make a row of the table."""
    return {"what": what, "ours": ours, "compared with": other, "ratio": ratio}


def seconds(task: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of both, and the median ratio theirs / ours of the pairs."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def pictures(count: int) -> pix2pix.Pictures:
    """Test pictures of noise with random holes."""
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, pix2pix.LAST + 1, (count, 4))
    photos = [
        pix2pix.Photo(f"cat_{i}.jpg", "Cat", Path(), None, tuple(map(int, boxes[i])))
        for i in range(count)
    ]
    masked = rng.integers(0, 256, (count, 256, 256, 3), np.uint8)
    return pix2pix.Pictures.of(photos, masked, None)


def submission() -> Iterator[Row]:
    """Spell the submission of 200 pictures, against a loop over pixels; then write it, gzipped."""
    config, test = pix2pix.make_config({}), pictures(200)
    composites = np.random.default_rng(1).random((200, 256, 256, 3)).astype(np.float32)

    def vectorised() -> None:
        with open(os.devnull, "wb") as stream:
            for photo, boxes, picture in zip(test.photos, test.boxes, composites, strict=True):
                values = pix2pix.submission_values(config, picture, boxes)
                stream.write(pix2pix.submission_rows(photo.name, boxes, values))

    def by_pixel() -> None:
        with open(os.devnull, "w") as stream:
            for photo, boxes, picture in zip(test.photos, test.boxes, composites, strict=True):
                for number, (top, left) in enumerate(boxes, start=1):
                    for row in range(top, top + 75):
                        for column in range(left, left + 75):
                            for channel in range(3):
                                value = picture[row, column, 2 - channel]
                                name = f"{photo.name}_box{number}_{row}_{column}_{channel}"
                                stream.write(f"{name},{value:.6f}\n")

    ours, theirs, ratio = in_turn(vectorised, by_pixel, 3)
    yield row(
        "submission, 6,750,000 rows spelled",
        f"{ours:.2f} s",
        f"loop over pixels {theirs:.2f} s",
        ratio,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv.gz"
        took = seconds(
            lambda: pix2pix.write_submission(config, path, test, [(slice(0, 200), composites)])
        )
        yield row(
            "submission, gzipped to disk", f"{took:.2f} s, {path.stat().st_size / 1e6:.0f} MB"
        )


def harmonic() -> Iterator[Row]:
    """Fill 64 pictures, against one sparse direct solve a picture."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from test_kernel_holes import mask_of, solve_directly

    test = pictures(64)
    fill = pix2pix.BASELINES["harmonic"]
    images = test.masked.astype(np.float32) / 255  # type: ignore[union-attr]
    fill(images, test.boxes)
    ours, theirs, ratio = in_turn(
        lambda: fill(images, test.boxes),
        lambda: [solve_directly(images[i], mask_of(test.boxes[i])) for i in range(8)],
        3,
    )
    yield row(
        "harmonic fill, a picture",
        f"{ours / 64 * 1e3:.2f} ms",
        f"sparse direct solve {theirs / 8 * 1e3:.0f} ms",
        ratio * 8,
    )


def start_up() -> Iterator[Row]:
    """Start both programs."""
    command = [sys.executable, "-m", "tools", "--help"]
    kernel = [sys.executable, str(PROJECT / "kernel" / "pix2pix.py"), "--print-config"]
    for what, words in (("tools --help", command), ("kernel --print-config", kernel)):
        took = statistics.median(
            seconds(lambda words=words: subprocess.run(words, capture_output=True, cwd=PROJECT))
            for _ in range(5)
        )
        yield row(what, f"{took:.2f} s")


def upload() -> Iterator[Row]:
    """Send 300 MB to servers on this machine; what counts is the memory that it takes."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    from bench_upload import upload as rows

    yield from rows()


def matmul_rate() -> float:
    """Operations a second of a large float32 matrix product: what the chip gives in practice."""
    import tensorflow as tf

    side = 4096
    matrix = tf.random.uniform([side, side])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    product()
    return 2 * side**3 / statistics.median(seconds(lambda: product().numpy()) for _ in range(5))


def example(batch: int) -> tuple[Any, Any, Any]:
    """Input, mask and target of one step, of noise."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shape = (batch, 256, 256, 3)
    seen, target = (tf.constant(rng.uniform(-1, 1, shape), tf.float32) for _ in "ab")
    boxes = rng.integers(0, pix2pix.LAST + 1, (batch, 2, 2)).astype(np.int32)
    return seen, pix2pix.hole_mask(tf.constant(boxes)), target


def step() -> Iterator[Row]:
    """Train steps of ``report`` and ``best``, against a plain transcription of the recipe."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from tutorial import Tutorial

    peak = matmul_rate()
    yield row("float32 matrix product", f"{peak / 1e9:.0f} GFLOP/s")
    one = example(1)
    model, plain = pix2pix.Pix2Pix(pix2pix.make_config({})), Tutorial()

    def ours() -> None:
        model.train_step(*one).numpy()

    def theirs() -> None:
        plain.train_step(one[0], one[2])[0].numpy()

    compiled = seconds(ours), seconds(theirs)
    took, other, ratio = in_turn(ours, theirs, 15)
    yield row(
        "report, batch 1",
        f"{1 / took:.2f} img/s",
        f"plain transcription {1 / other:.2f} img/s",
        ratio,
    )
    yield row(
        "report, share of the product's rate",
        f"{pix2pix.training_flops(model) / took / peak:.0%}",
        f"plain transcription {pix2pix.training_flops(model) / other / peak:.0%}",
    )
    yield row(
        "report, first step",
        f"{compiled[0]:.1f} s",
        f"plain transcription {compiled[1]:.1f} s",
        compiled[1] / compiled[0],
    )
    for precision in ("auto", "bfloat16"):
        config = pix2pix.make_config({"preset": "best", "precision": precision})
        best, many = pix2pix.Pix2Pix(config), example(config.batch_size)
        best.train_step(*many)
        took, other, ratio = in_turn(
            lambda best=best, many=many: best.train_step(*many).numpy(), theirs, 5
        )
        work = pix2pix.training_flops(best) * config.batch_size + pix2pix.update_flops(best)
        share = work / took / peak
        kind = pix2pix.precision_policy(config)
        yield row(
            f"best, batch {config.batch_size}, {kind}",
            f"{config.batch_size / took:.2f} img/s, {share:.0%}",
            f"plain transcription {1 / other:.2f} img/s",
            ratio * config.batch_size,
        )


PEAK = """
import sys
sys.path[:0] = [{kernel!r}, {tests!r}]
import bench, pix2pix, tensorflow as tf
seen, mask, target = bench.example({batch})
if {plain}:
    import tutorial
    step = lambda model=tutorial.Tutorial(): model.train_step(seen, target)[0].numpy()
else:
    model = pix2pix.Pix2Pix(pix2pix.make_config({{"preset": {preset!r}}}))
    step = lambda: model.train_step(seen, mask, target).numpy()
for _ in range(3):
    step()
if tf.config.list_physical_devices("GPU"):
    print(tf.config.experimental.get_memory_info("GPU:0")["peak"])
else:
    status = open("/proc/self/status").read()  # getrusage would count the parent's memory too
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak_memory() -> Iterator[Row]:
    """Take three steps in a process of its own: peak memory of the GPU, or of the process."""

    def peak(preset: str, batch: int, plain: bool) -> float:
        code = PEAK.format(
            kernel=str(PROJECT / "kernel"),
            tests=str(PROJECT / "tests"),
            preset=preset,
            batch=batch,
            plain=plain,
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return int(done.stdout.split()[-1]) / 1e9

    plain = peak("report", 1, plain=True)
    for preset, batch in (("report", 1), ("best", 16)):
        ours = peak(preset, batch, plain=False)
        yield row(
            f"peak memory, {preset}, batch {batch}",
            f"{ours:.2f} GB",
            f"plain transcription, batch 1 {plain:.2f} GB",
            plain / ours,
        )


def sample_data(folder: Path, most: int | None = None) -> Path:
    """Make a dataset in ``folder`` of the embedded sample, or of its first pictures a class."""
    sys.path.insert(0, str(PROJECT))
    from tools.datasets import from_sample, make_dataset

    classes = {label: photos[:most] for label, photos in from_sample(seed=1).items()}
    make_dataset(classes, folder / "data", test_per_class=1, seed=1)
    return folder / "data"


def rate(batches: Iterator[Any], images: int, batch: int = 1) -> float:
    """Images a second, of so many that what was buffered before does not matter."""
    for _ in range(images // batch // 10):
        next(batches)
    return images / seconds(lambda: [next(batches) for _ in range(images // batch)])


def pipeline() -> Iterator[Row]:
    """Bring photos to the step, and prepare them there, against the tutorial's pipeline."""
    import tensorflow as tf

    sys.path.insert(0, str(PROJECT / "tests"))
    from tutorial import input_pipeline

    with tempfile.TemporaryDirectory() as folder:
        data = sample_data(Path(folder))
        plain = iter(input_pipeline(str(data / "Training_Data/*/Masked_Train/*.jpg")).repeat())
        theirs = rate(plain, 3000)
        del plain
        for preset in ("report", "best"):
            settings = {"preset": preset, "data": str(data), "steps_per_call": 10}
            config = pix2pix.make_config(settings)
            batch = 10 * config.batch_size  # images a call
            photos = pix2pix.load_dataset(config).training
            batches = iter(pix2pix.training_batches(config, photos, 0, 20_000))
            held = {name: values[0] for name, values in next(batches).items()}
            ours = rate(batches, 16_000, batch)
            del batches

            @tf.function
            def prepare(held: Any = held, config: Any = config) -> Any:
                return pix2pix.training_example(config, held)

            forever = iter(prepare, None)
            first = rate(forever, 800, config.batch_size)
            for what, each in (
                ("before the step", ours),
                ("first in it", first),
                ("both on a CPU", 1 / (1 / ours + 1 / first)),
            ):
                yield row(
                    f"input of {preset}, {what}",
                    f"{each:.0f} img/s",
                    f"tutorial's pipeline {theirs:.0f} img/s",
                    each / theirs,
                )


def soak() -> Iterator[Row]:
    """Train 10,000 steps of a tiny network on photos that are decoded when used."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", sample_data(Path(folder)), "--out", Path(folder) / "run"]
        words += ["--preset", "best", "--width", 8, "--depth", 1, "--blocks", 1, "--patch", 32]
        words += ["--batch-size", 1, "--cache", "none", "--steps", 10_000, "--ensemble", 1]
        script = PROJECT / "kernel" / "pix2pix.py"
        command = [sys.executable, script, *words, "--log-every", 1000, "--validate-every", 2000]
        used: dict[int, float] = {}
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if line.startswith("step "):
                    pages = int(Path(f"/proc/{run.pid}/statm").read_text().split()[1])
                    used[int(line.split()[1].split("/")[0])] = pages * 4096 / 1e6
    yield row(
        "memory after 10,000 steps",
        f"{used[10_000]:.0f} MB",
        f"after 4,000 steps {used[4000]:.0f} MB",
        used[4000] / used[10_000],
    )


def kills() -> Iterator[Row]:
    """Kill a tiny run at 20 random moments, and compare it with one that was left alone."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    from killing import kill_often

    with tempfile.TemporaryDirectory() as folder:
        data, script = sample_data(Path(folder), most=6), PROJECT / "kernel" / "pix2pix.py"
        left = kill_often(sys.executable, script, data, Path(folder) / "runs", 20, 400)
    yield row(
        f"run killed {left.kills} times",
        "as if it were not" if left.whole(400) else f"broken: {left}",
        f"left alone: weights differ by {left.greatest_difference:g}",
    )


BENCHMARKS = {
    "step": step,
    "peak-memory": peak_memory,
    "pipeline": pipeline,
    "soak": soak,
    "submission": submission,
    "harmonic": harmonic,
    "start-up": start_up,
    "upload": upload,
    "kills": kills,
}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    rows: list[Row] = []
    print(f"{'':36} {'ours':>18}   {'compared with':36} ratio", flush=True)
    for name in sys.argv[1:] or BENCHMARKS:
        for each in BENCHMARKS[name]():
            rows.append(each)
            ratio = "" if each["ratio"] is None else f"{each['ratio']:.3g}"
            print(
                f"{each['what']:36} {each['ours']:>18}   {each['compared with']:36} {ratio}",
                flush=True,
            )
    about = {"machine": pix2pix.describe_machine(), "processor": platform.processor()}
    path = PROJECT / "runs" / f"{'-'.join(['bench', *sys.argv[1:]])}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about | {"versions": pix2pix.versions(), "rows": rows}, indent=2))
    print(f"written to {path.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
