import gzip
import hashlib
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.testset import random_spots, rows, write_submission, write_test_set
from tools import submission_file
from tools.errors import UserError, VerificationError
from tools.holes import find_masked_info, read_holes


@pytest.fixture
def holes(tmp_path):
    info = find_masked_info(write_test_set(tmp_path / "data"))
    return read_holes(info)


@pytest.mark.parametrize("name", ["submission.csv", "submission.csv.gz"])
def test_a_right_submission_passes_with_the_hash_of_the_bytes_on_disk(holes, tmp_path, name):
    path = write_submission(tmp_path / name)
    checked = submission_file.check(path, holes)
    assert checked.rows == holes.rows == 3 * 33_750
    assert checked.size == path.stat().st_size
    assert checked.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_any_order_line_ending_and_way_to_write_a_number_passes(holes, tmp_path):
    lines = rows()
    random.Random(1).shuffle(lines)
    lines[:7] = [
        line.replace("0.411765", value)
        for line, value in zip(lines, "0 1 1e-05 .5 1.000000 +0.5 -0.0".split(), strict=False)
    ]
    lines[7] = lines[7].replace("0.411765", "0.41176470588235292")
    path = write_submission(tmp_path / "any.csv", lines, newline="\r\n", last="")
    assert submission_file.check(path, holes).rows == len(lines)


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-0.1", "1.000001", "105", "", "0.5 ", "0x1", "1_0", "1e400", '"0.5"']
)
def test_a_value_that_is_no_number_in_the_unit_range_is_named_by_its_line(holes, tmp_path, value):
    lines = rows()
    lines[70_000] = lines[70_000].replace("0.411765", value)
    path = write_submission(tmp_path / "s.csv", lines)
    with pytest.raises(UserError, match=r"s\.csv, line 70002: .* is not a number in \[0, 1\]\."):
        submission_file.check(path, holes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_101_37_3,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_100_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_101_36_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_101_037_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_101_3.7_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box1_4294967397_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box3_101_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_box_101_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_1.jpg_bax1_101_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "cat_2.jpg_box1_101_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", "at_1.jpg_box1_101_37_0,"),
        ("cat_1.jpg_box1_101_37_0,", '"cat_1.jpg_box1_101_37_0",'),
        ("cat_1.jpg_box1_101_37_0,", ","),
        ("cat_1.jpg_box1_101_37_0,", "_0_0,"),
    ],
)
def test_an_identifier_that_the_test_set_does_not_imply_is_named(holes, tmp_path, old, new):
    path = write_submission(tmp_path / "s.csv", [line.replace(old, new) for line in rows()])
    with pytest.raises(UserError, match=r"s\.csv, line 2: .* is no pixel of a hole in .*info\.csv"):
        submission_file.check(path, holes)


@pytest.mark.parametrize("text", ["", "no comma at all", "\x00"])
@pytest.mark.parametrize("line", [2, 3, 101_251])
def test_a_line_without_two_columns_is_named(holes, tmp_path, text, line):
    lines = rows()
    lines[line - 2] = text
    path = write_submission(tmp_path / "s.csv", lines)
    with pytest.raises(UserError, match=rf"s\.csv, line {line}: .* has no two columns"):
        submission_file.check(path, holes)


def test_a_file_of_nothing_but_one_empty_line_after_the_header_is_refused(holes, tmp_path):
    path = write_submission(tmp_path / "s.csv", [], last="\n\n")
    with pytest.raises(UserError, match="line 2: '' has no two columns"):
        submission_file.check(path, holes)


@pytest.mark.parametrize("copy", [3, 90_000, 101_250])
def test_a_row_that_stands_there_twice_is_named_with_both_lines(holes, tmp_path, copy):
    lines = rows()
    lines.insert(copy, lines[2])
    path = write_submission(tmp_path / "s.csv", lines)
    expected = rf"line {copy + 2}: 'cat_1.jpg_box1_101_37_2' stands at line 4 already"
    with pytest.raises(UserError, match=expected):
        submission_file.check(path, holes)


def test_missing_rows_are_counted_and_the_first_is_named(holes, tmp_path):
    lines = rows()
    path = write_submission(tmp_path / "s.csv", lines[:40_000] + lines[40_010:])
    expected = r"line 101241: 10 of 101,250 rows are missing, first 'dog 2\.jpg_box1_159_122_1'"
    with pytest.raises(UserError, match=expected):
        submission_file.check(path, holes)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"\xef\xbb\xbf", r"s\.csv begins with a byte order mark"),
        (gzip.compress(b"x", mtime=0), r"s\.csv is compressed\. Name it s\.csv\.gz"),
    ],
)
def test_what_another_program_made_of_the_file_is_told(holes, tmp_path, start, message):
    path = tmp_path / "s.csv"
    path.write_bytes(start + "\n".join(rows()).encode())
    with pytest.raises(UserError, match=message):
        submission_file.check(path, holes)
    twice = tmp_path / "s.csv.gz"
    twice.write_bytes(gzip.compress(gzip.compress(b"x")))
    with pytest.raises(UserError, match=r"s\.csv\.gz is compressed twice"):
        submission_file.check(twice, holes)


@pytest.mark.parametrize("header", ["id,value", "<html>", "\n"])
def test_other_columns_are_refused_at_line_1(holes, tmp_path, header):
    path = tmp_path / "s.csv"
    path.write_text("\n".join([header, *rows()]), encoding="utf-8")
    with pytest.raises(UserError, match=r"s\.csv, line 1: the columns are .*filename_box_pixel"):
        submission_file.check(path, holes)


def test_an_empty_file_a_wrong_suffix_and_no_file_are_told_apart(holes, tmp_path):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "s.txt").touch()
    for name, message in (
        ("empty.csv", "is empty"),
        ("s.txt", "neither"),
        ("no.csv", "There is no"),
    ):
        with pytest.raises(UserError, match=message):
            submission_file.check(tmp_path / name, holes)


@pytest.mark.parametrize("damage", ["cut", "flipped", "changed", "plain"])
def test_a_damaged_compressed_file_fails_verification(holes, tmp_path, damage):
    path = write_submission(tmp_path / "s.csv.gz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    text = gzip.decompress(whole)
    changed = gzip.compress(text.replace(b"box1", b"box7", 1))[:-8] + whole[-8:]  # but for its sum
    damages = {"cut": whole[:middle], "flipped": flipped, "changed": changed, "plain": text}
    path.write_bytes(damages[damage])
    with pytest.raises(VerificationError, match=r"s\.csv\.gz is cut off or damaged"):
        submission_file.check(path, holes)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(holes, tmp_path):
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"filename_box_pixel,value\n")
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="has a line of over 64 KiB"):
        submission_file.check(path, holes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak memory")
def test_the_whole_competition_is_checked_within_15_seconds_and_1_gigabyte(tmp_path):
    spots = random_spots(200)
    data = write_test_set(tmp_path / "data", spots)
    path = tmp_path / "submission.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"filename_box_pixel,value\n")
        for spot in spots:
            file.write("\n".join([*rows([spot], "0.123456"), ""]).encode())
    code = (
        "import re, sys, time; from pathlib import Path\n"
        "from tools import holes, submission_file\n"
        "where = holes.read_holes(holes.find_masked_info(Path(sys.argv[1])))\n"
        "rows = submission_file.check(Path(sys.argv[2]), where).rows\n"
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "print(rows, time.process_time(), int(peak) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, data, path], capture_output=True, text=True, check=True
    )
    count, seconds, peak = map(float, done.stdout.split())
    assert count == 6_750_000
    assert seconds < 15
    assert peak < 1e9
