"""Datasets in the competition's layout, from any photos or from the embedded sample."""

from __future__ import annotations

import csv
import io
import os
import random
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from tools import console, runs
from tools.errors import UserError
from tools.files import alone
from tools.holes import HOLE, SIDE, TRUTH

PLAIN = re.compile(r"[\w ()+-][\w .()+-]*")  # what the kernel takes for a plain name
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}

# Photographs in scikit-image's wheel that stand in for the four classes.
SAMPLE_PHOTOS = {
    "Cat": "chelsea.png",
    "Dog": "astronaut.png",
    "Elephant": "coffee.png",
    "Tiger": "rocket.jpg",
}
SAMPLE_PER_CLASS = 24
SAMPLE_TEST_PER_CLASS = 4

Source = Callable[[], Image.Image]


def from_folder(photos: Path) -> dict[str, list[tuple[str, Source]]]:
    """List the photos of a folder that has one subfolder per class.

    Raises:
        UserError: where there is no such subfolder.
    """
    if not photos.is_dir():
        raise UserError(f"There is no folder {photos}.", "Name one with a subfolder per class.")
    classes: dict[str, list[tuple[str, Source]]] = {}
    for folder in sorted(p for p in photos.glob("*") if p.is_dir() and p.name[0] != "."):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        classes[folder.name] = [(str(p), partial(central_square, p)) for p in files]
    if not classes:
        raise UserError(
            f"{photos} has no subfolders.", "Give a folder with one subfolder per class."
        )
    return classes


def from_sample(seed: int) -> dict[str, list[tuple[str, Source]]]:
    """List random square crops of scikit-image's photographs.

    Raises:
        UserError: where scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError:
        raise UserError(
            "The sample needs scikit-image.", "Run: pip install -r requirements.txt"
        ) from None
    classes: dict[str, list[tuple[str, Source]]] = {}
    for label, name in SAMPLE_PHOTOS.items():
        path, rng = Path(skimage.data.__file__).parent / name, random.Random(f"{seed} {label}")
        with Image.open(path) as image:
            width, height = image.size
        classes[label] = []
        for index in range(SAMPLE_PER_CLASS):
            side = rng.randint(int(min(width, height) * 0.6), min(width, height))
            left, top = rng.randint(0, width - side), rng.randint(0, height - side)
            frame = (left, top, left + side, top + side)
            classes[label].append((f"{name}, crop {index}", partial(crop, path, frame)))
    return classes


def sample_folder() -> Path:
    """Return the embedded sample's folder, made if it is not there."""
    folder = runs.root() / "sample"
    with alone(folder.with_suffix(".lock"), "another command makes the sample: waiting"):
        if not folder.exists():
            make_dataset(from_sample(seed=0), folder, SAMPLE_TEST_PER_CLASS, seed=0)
    return folder


def crop(path: Path, frame: tuple[int, int, int, int]) -> Image.Image:
    """Cut ``frame`` (left, top, right, bottom) out of a picture, at 256x256, RGB."""
    with Image.open(path) as image:
        return image.convert("RGB").crop(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def central_square(path: Path) -> Image.Image:
    """Read a photo upright and cut out its central square, at 256x256, RGB."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, top, left + side, top + side))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def make_dataset(
    classes: dict[str, list[tuple[str, Source]]], out: Path, test_per_class: int, seed: int
) -> dict[str, Any]:
    """Write a dataset: masked and unmasked training pictures, test pictures, and their truth apart.

    It appears under ``out`` when it is whole, and not before. The same photos and seed give the
    same files.

    Args:
        classes: (name, function that reads it) of each photo, by class.
        out: a folder that is not there yet, or is empty.
        test_per_class: pictures of each class that go to the test set.
        seed: of the order and of the holes.

    Returns:
        Counts by class, and the reason for each photo that was left out.

    Raises:
        UserError: where ``out`` is taken, or a class has too few readable photos.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already.", "Choose another folder, or remove it.")
    names = Counter(label.lower() for label in classes)
    for label, photos in classes.items():
        if not PLAIN.fullmatch(label):
            raise UserError(
                f"The class {label!r} cannot begin a picture's name.",
                "Name its folder with letters, digits, spaces and any of _ . ( ) + -",
            )
        if names[label.lower()] > 1:
            raise UserError(
                f"{label} and another class differ in capitals alone.", "Rename a folder."
            )
        require_enough(label, len(photos), test_per_class)
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        result = _write_classes(classes, staging, test_per_class, seed)
        if out.exists():
            out.rmdir()
        os.replace(staging, out)
    except OSError as failure:
        raise UserError(
            f"{failure.filename or out} can't be written ({failure.strerror}).",
            "Make room, or choose another folder.",
        ) from failure
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return result


def require_enough(label: str, count: int, test_per_class: int) -> None:
    """Refuse a class that leaves fewer than 2 pictures to train on."""
    if count < test_per_class + 2:
        raise UserError(
            f"Class {label} has {count} readable photos; {test_per_class} for the test set and 2 "
            "to train on are needed.",
            "Add photos, or lower --test-per-class.",
        )


def _write_classes(
    classes: dict[str, list[tuple[str, Source]]], base: Path, test_per_class: int, seed: int
) -> dict[str, Any]:
    skipped: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    test_rows: list[list[Any]] = []
    testing, truth = base / "Testing_Data", base / TRUTH
    with (
        console.progress_bar() as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for label, photos in classes.items():
            task = bar.add_task(label, total=len(photos), detail="")
            readable: list[bytes] = []
            for (name, _), loaded in zip(
                photos, pool.map(_encode, [source for _, source in photos]), strict=True
            ):
                bar.advance(task)
                if isinstance(loaded, str):
                    skipped[name] = loaded
                else:
                    readable.append(loaded)
            require_enough(label, len(readable), test_per_class)
            rng = random.Random(f"{seed} {label}")
            rng.shuffle(readable)
            rows: list[list[Any]] = []
            training = base / "Training_Data" / label
            for number, clean in enumerate(readable, start=1):
                boxes = [rng.randint(0, SIDE - HOLE) for _ in range(4)]
                row = [f"{label.lower()}_{number}.jpg", *boxes]
                if number <= test_per_class:
                    test_rows.append(row)
                    _write_pair(clean, row, testing, truth)
                else:
                    rows.append(row)
                    _write_pair(clean, row, training / "Masked_Train", training / "Unmasked_Train")
            _write_boxes(rows, training / "Masked_Train")
            counts[label] = {"training": len(rows), "test": len(readable) - len(rows)}
    random.Random(seed).shuffle(test_rows)
    _write_boxes(test_rows, testing)
    return {"classes": counts, "left_out": skipped}


def _encode(source: Source) -> bytes | str:
    """Read one photo and encode it as JPEG; a text says why it can't be read."""
    try:
        return _jpeg(source())
    except Exception as failure:  # noqa: BLE001 - decoders raise whatever a broken file provokes
        return f"{type(failure).__name__}: {failure}"


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _write_pair(clean: bytes, row: Sequence[Any], masked_folder: Path, clean_folder: Path) -> None:
    name, y1, x1, y2, x2 = row
    for folder in (masked_folder, clean_folder):
        folder.mkdir(parents=True, exist_ok=True)
    (clean_folder / name).write_bytes(clean)
    image = Image.open(io.BytesIO(clean)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for top, left in ((y1, x1), (y2, x2)):
        draw.rectangle((left, top, left + HOLE - 1, top + HOLE - 1), fill=(0, 0, 0))
    (masked_folder / name).write_bytes(_jpeg(image))


def _write_boxes(rows: Sequence[Sequence[Any]], folder: Path) -> None:
    with open(folder / "masked_info.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["", "filename", "y1", "x1", "y2", "x2"])
        writer.writerows([index, *row] for index, row in enumerate(rows))


def run_make_dataset(
    photos: Path | None, out: Path, test_per_class: int | None, seed: int, as_json: bool
) -> None:
    """Make a dataset, of the embedded sample where there are no ``photos``, and say what it holds.

    Raises:
        UserError: as :func:`make_dataset`.
    """
    if photos is None:
        classes, per_class = from_sample(seed), test_per_class or SAMPLE_TEST_PER_CLASS
    else:
        classes, per_class = from_folder(photos), test_per_class or 50
    result = make_dataset(classes, out, per_class, seed)
    if as_json:
        console.print_json({"path": str(out), **result})
        return
    rows = [(label, str(n["training"]), str(n["test"])) for label, n in result["classes"].items()]
    console.print_table(("class", "training", "test"), rows, title=str(out))
    for name, reason in result["left_out"].items():
        console.note(f"left out: {name}: {reason}")
    console.note(f"Try it: tools dry-run --data {shlex.quote(str(out))}")
