import json

import pytest

from tests.peers.kaggle import Cut, Drop, Hang, Reply
from tools import logs, settings
from tools.kaggle_client import Kaggle
from tools.kaggle_kernels import Kernels
from tools.logs import Event, Progress

KERNEL = "ada/pix2pix-inpainting"
EVENTS = [
    {"stream_name": "stdout", "time": 1.5, "data": "one\n"},
    {"stream_name": "stderr", "time": 2, "data": "zwölf ☃\n"},
]
PARSED = [Event("stdout", 1.5, "one\n"), Event("stderr", 2.0, "zwölf ☃\n")]


@pytest.mark.parametrize(
    "stored",
    [
        json.dumps(EVENTS),
        "[" + "\n,".join(map(json.dumps, EVENTS)) + "\n]",
        "[" + "\n,".join(map(json.dumps, EVENTS)) + "]",
        "[" + "\n,".join(map(json.dumps, EVENTS)),
        "[" + ",\n".join(map(json.dumps, EVENTS)) + ",\n",
        "\n".join(map(json.dumps, EVENTS)),
        "\n".join(map(json.dumps, EVENTS)) + "\n",
    ],
    ids=["array", "comma lines", "closed", "no end", "trailing comma", "json lines", "ended"],
)
def test_every_known_form_of_a_log_gives_the_same_events(stored):
    assert logs.parse(stored) == PARSED


def test_what_is_left_of_a_log_that_was_cut_off_is_read():
    stored = "[" + "\n,".join(map(json.dumps, EVENTS))
    events = logs.parse(stored[:-4])
    assert events[0] == PARSED[0]
    assert logs.decode(events).startswith("one\nzwölf")


@pytest.mark.parametrize("stored", ["", "[]", "[\n]", "\n"])
def test_an_empty_log_has_no_events(stored):
    assert logs.parse(stored) == []
    assert logs.decode([]) == ""


def test_plain_text_is_kept_as_it_is():
    assert logs.decode(logs.parse("Traceback:\n  File x\nError")) == "Traceback:\n  File x\nError\n"


def test_a_bar_is_shown_in_its_last_state_and_nothing_moves_the_cursor():
    text = " 1%\r 50%\r100%\r\nred \x1b[31mword\x1b[0m\x07\tend\n"
    assert logs.decode([Event("stderr", 0, text)]) == "100%\nred word\tend\n"


def test_progress_is_read_from_the_kernels_lines():
    line = "step 1200/150000 | gen 12.34 | l1 0.0512 | 31.2 img/s | eta 1:02:33\n"
    found = logs.progress("step 1/150000 | gen 1\n" + line + "validation at step 1200: rmse 0.1\n")
    assert found == Progress(1200, 150000, "gen 12.34 | l1 0.0512 | 31.2 img/s | eta 1:02:33")
    assert logs.progress("no step here") is None


@pytest.fixture
def kernels(server):
    return Kernels(Kaggle(settings.Settings(kaggle_endpoint=server.url, timeout=1.0)))


@pytest.fixture
def version(server):
    version = server.add_version(KERNEL, states=["RUNNING"] * 20 + ["COMPLETE"])
    version.say("one", "zwölf ☃", "three", "four")
    return version


def follow(kernels, pauses=None):
    sleep = (lambda seconds: None) if pauses is None else pauses.append
    events = logs.follow(kernels, KERNEL, 1, lambda: kernels.state(KERNEL, 1).ended, 5.0, sleep)
    return [event.text.strip() for event in events]


def test_a_live_log_is_followed_to_its_end(kernels, version):
    assert follow(kernels) == ["one", "zwölf ☃", "three", "four"]


@pytest.mark.parametrize(
    "faults",
    [
        [Cut(1), Cut(3), Cut(2)],
        [Drop(), Cut(2), Drop()],
        [Reply(404, {"code": 404, "message": "not yet"}), Cut(1)],
        [Reply(502, b"<html>"), Cut(4)],
        [Hang(2)],
    ],
    ids=["cut", "dropped", "not there yet", "gateway", "silent"],
)
def test_a_broken_stream_is_taken_up_without_repeats(kernels, version, server, faults):
    server.faults["logs"] = faults
    assert follow(kernels) == ["one", "zwölf ☃", "three", "four"]


def test_pauses_grow_while_nothing_comes_and_shrink_when_something_does(kernels, version, server):
    server.faults["logs"] = [Cut(0), Cut(0), Cut(1), Cut(1)]
    pauses = []
    follow(kernels, pauses)
    assert pauses == [7.5, 11.25, 5.0, 7.5]


def test_a_run_that_ended_meanwhile_gives_the_rest_from_its_stored_log(kernels, version, server):
    version.states = ["RUNNING", "COMPLETE"]
    server.faults["logs"] = [Cut(1), Cut(2), Cut(2)]
    assert follow(kernels) == ["one", "zwölf ☃", "three", "four"]


def test_what_was_written_so_far_is_read_until_the_stream_is_quiet(kernels, version, server):
    server.faults["logs"] = [Hang(3)]
    events = logs.so_far(kernels, KERNEL, 1, quiet=1.0)
    assert logs.decode(events) == "one\nzwölf ☃\nthree\n"
