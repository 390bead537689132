"""Every speed figure of the README: ``make bench`` prints one table and writes ``bench.json``.

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
    yield {
        "what": "submission, 6,750,000 rows spelled",
        "ours": f"{ours:.2f} s",
        "compared with": f"loop over pixels {theirs:.2f} s",
        "ratio": ratio,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv.gz"
        took = seconds(
            lambda: pix2pix.write_submission(config, path, test, [(slice(0, 200), composites)])
        )
        yield {
            "what": "submission, gzipped to disk",
            "ours": f"{took:.2f} s, {path.stat().st_size / 1e6:.0f} MB",
            "compared with": "",
            "ratio": None,
        }


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
    yield {
        "what": "harmonic fill, a picture",
        "ours": f"{ours / 64 * 1e3:.2f} ms",
        "compared with": f"sparse direct solve {theirs / 8 * 1e3:.0f} ms",
        "ratio": ratio * 8,
    }


def start_up() -> Iterator[Row]:
    """Start both programs."""
    command = [sys.executable, "-m", "tools", "--help"]
    kernel = [sys.executable, str(PROJECT / "kernel" / "pix2pix.py"), "--print-config"]
    for what, words in (("tools --help", command), ("kernel --print-config", kernel)):
        took = statistics.median(
            seconds(lambda words=words: subprocess.run(words, capture_output=True, cwd=PROJECT))
            for _ in range(5)
        )
        yield {"what": what, "ours": f"{took:.2f} s", "compared with": "", "ratio": None}


def upload() -> Iterator[Row]:
    """Send 300 MB to servers on this machine; what counts is the memory that it takes."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    from bench_upload import upload as rows

    yield from rows()


def step() -> Iterator[Row]:
    """Train one step of ``report`` at batch 1, against a plain transcription of its recipe."""
    import tensorflow as tf

    sys.path.insert(0, str(PROJECT / "tests"))
    from tutorial import Tutorial

    rng = np.random.default_rng(0)
    seen, target = (tf.constant(rng.uniform(-1, 1, (1, 256, 256, 3)), tf.float32) for _ in "ab")
    mask = tf.zeros([1, 256, 256, 1])
    model, plain = pix2pix.Pix2Pix(pix2pix.make_config({})), Tutorial()

    def ours() -> None:
        model.train_step(seen, mask, target).numpy()

    def theirs() -> None:
        plain.train_step(seen, target)[0].numpy()

    compiled = seconds(ours), seconds(theirs)
    took, other, ratio = in_turn(ours, theirs, 7)
    yield {
        "what": "report, a step at batch 1",
        "ours": f"{1 / took:.2f} img/s",
        "compared with": f"plain transcription {1 / other:.2f} img/s",
        "ratio": ratio,
    }
    yield {
        "what": "report, first step",
        "ours": f"{compiled[0]:.1f} s",
        "compared with": f"plain transcription {compiled[1]:.1f} s",
        "ratio": compiled[1] / compiled[0],
    }


def pipeline() -> Iterator[Row]:
    """Make training examples: decoded once, augmented in batches, holes and fill by products."""
    for preset in ("report", "best"):
        config = pix2pix.make_config({"preset": preset})
        noise = pictures(64)
        photos = pix2pix.Pictures(noise.photos, noise.boxes, None, noise.masked)
        count = 600 // config.batch_size
        batches = iter(pix2pix.training_batches(config, photos, 0, count + 20))
        for _ in range(10):
            next(batches)
        took = seconds(lambda batches=batches, count=count: [next(batches) for _ in range(count)])
        yield {
            "what": f"input of {preset}",
            "ours": f"{count * config.batch_size / took:.0f} img/s",
            "compared with": "",
            "ratio": None,
        }


def kills() -> Iterator[Row]:
    """Kill a tiny run at 20 random moments, and compare it with one that was left alone."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    from killing import kill_often

    from tools.datasets import from_sample, make_dataset

    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder) / "data", PROJECT / "kernel" / "pix2pix.py"
        classes = {label: photos[:6] for label, photos in from_sample(seed=1).items()}
        make_dataset(classes, data, test_per_class=1, seed=1)
        left = kill_often(sys.executable, script, data, Path(folder) / "runs", 20, 400)
    yield {
        "what": f"run killed {left.kills} times",
        "ours": "as if it were not" if left.whole(400) else f"broken: {left}",
        "compared with": f"left alone: weights differ by {left.greatest_difference:g}",
        "ratio": None,
    }


BENCHMARKS = {
    "step": step,
    "pipeline": pipeline,
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
        for row in BENCHMARKS[name]():
            rows.append(row)
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
            print(
                f"{row['what']:36} {row['ours']:>18}   {row['compared with']:36} {ratio}",
                flush=True,
            )
    about = {"machine": pix2pix.describe_machine(), "processor": platform.processor()}
    path = PROJECT / "runs" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about | {"versions": pix2pix.versions(), "rows": rows}, indent=2))
    print(f"written to {path.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
