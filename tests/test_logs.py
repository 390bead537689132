import itertools
import json
import time

import pytest

from tests.peers.kaggle import Cut, Drop, Hang, Reply
from tools import log_stream, logs, runs, settings
from tools.kaggle_client import Kaggle
from tools.kaggle_kernels import Kernels
from tools.logs import Event, Progress

KERNEL = "ada/pix2pix-inpainting"
JSON = {"Content-Type": "application/json"}
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


DEEP = "[" * 100_000


@pytest.mark.parametrize("stored", [DEEP, DEEP + "]" * 100_000, '{"data":' + DEEP])
def test_a_log_that_is_nested_too_deeply_is_kept_as_it_is(stored):
    assert logs.decode(logs.parse(stored)) == stored + "\n"


@pytest.mark.parametrize("time", [10**400, -1, float("inf"), float("nan"), "soon", None, [], {}])
def test_a_time_that_is_none_does_not_cost_the_event(time):
    stored = json.dumps([EVENTS[0] | {"time": time}])
    assert logs.parse(stored) == [Event("stdout", 0.0, "one\n")]


@pytest.mark.parametrize("odd", [{"data": 5}, {"data": [[[]]]}, {"data": None}, {"time": 1}, [], 5])
def test_what_is_no_event_among_events_is_passed_over(odd):
    assert logs.parse(json.dumps([EVENTS[0], odd, EVENTS[1]])) == PARSED


def test_a_program_that_meets_half_a_character_prints_a_question_mark(
    tools, server, project, version
):
    runs.record_push(KERNEL, 1)
    version.states = ["COMPLETE"]
    version.say("half \ud83d of it")
    version.events[-1]["stream_name"] = "std\udc80err"
    done = tools("logs", "--json")
    assert done.code == 0, done.err
    assert done.json[-1]["text"] == "half ? of it\n"
    version.log = "half \ud83d of it"
    assert tools("logs", "--json").json == [
        {"stream": "stdout", "time": 0.0, "text": "half ? of it\n"}
    ]


def test_plain_text_is_kept_as_it_is():
    assert logs.decode(logs.parse("Traceback:\n  File x\nError")) == "Traceback:\n  File x\nError\n"


def test_a_bar_is_shown_in_its_last_state_and_nothing_moves_the_cursor():
    text = " 1%\r 50%\r100%\r\nred \x1b[31mword\x1b[0m\x07\tend\n"
    assert logs.decode([Event("stderr", 0, text)]) == "100%\nred word\tend\n"


def test_an_event_is_one_line_whatever_its_text_holds():
    event = {"stream_name": "stderr", "time": 2.0, "data": "one\u2028two\x85three\n"}
    stored = json.dumps(event, ensure_ascii=False) + "\n"
    assert logs.parse(stored + stored) == [Event("stderr", 2.0, event["data"])] * 2


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
    events = log_stream.follow(
        kernels, KERNEL, 1, lambda: kernels.state(KERNEL, 1).ended, 5.0, sleep
    )
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
        [Reply(200, b"[]", JSON), Reply(200, b"", {"Content-Type": "text/plain"}), Cut(1)],
        [Reply(200, b'{"state": "QUEUED"}', JSON), Reply(200, b"<html>"), Cut(1)],
    ],
    ids=["cut", "dropped", "not there yet", "gateway", "silent", "empty", "no log"],
)
def test_a_broken_stream_is_taken_up_without_repeats(kernels, version, server, faults):
    server.faults["logs"] = faults
    assert follow(kernels) == ["one", "zwölf ☃", "three", "four"]


def test_odd_events_of_a_live_log_are_shown_as_they_are(kernels, version, server):
    odd = [DEEP, '{"data": "two", "time": 1%s}' % ("0" * 400), '{"data": 5}', "END_OF_LOG"]
    stream = "".join(f"data: {data}\n\n" for data in odd).encode()
    kind = {"Content-Type": "Text/Event-Stream; charset=utf-8"}
    server.faults["logs"] = [Reply(200, stream, kind)]
    assert follow(kernels) == [DEEP, "two", '{"data": 5}']


def test_an_event_whose_end_is_missing_is_told_when_it_is_whole(kernels, version, server):
    whole = 'data: {"stream_name": "stdout", "time": 1.5, "data": "one\\n"}\n\n'
    cut = (whole + 'data: {"stream_name": "stderr", "tim').encode()
    server.faults["logs"] = [Reply(200, cut, {"Content-Type": "text/event-stream"})]
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
    server.faults["logs"] = [Reply(200, b"[]", JSON)]
    assert follow(kernels) == ["one", "zwölf ☃", "three", "four"]


def test_what_was_written_so_far_is_read_until_the_stream_is_quiet(kernels, version, server):
    server.faults["logs"] = [Hang(3)]
    events = log_stream.so_far(kernels, KERNEL, 1, quiet=1.0)
    assert logs.decode(events) == "one\nzwölf ☃\nthree\n"


class Chatter(list):
    """Events that never end, ten a second."""

    def __getitem__(self, span):
        for number in itertools.count():
            time.sleep(0.1)
            yield {"stream_name": "stdout", "time": number, "data": f"line {number}\n"}


def test_a_stream_that_is_never_quiet_is_left_after_three_times_as_long(kernels, version):
    version.events = Chatter()
    events = log_stream.so_far(kernels, KERNEL, 1, quiet=0.5)
    assert 0 < len(events) < 25  # of the fifty that ten times as long would give


@pytest.mark.parametrize(("kind", "found"), [("application/json", PARSED), ("text/html", [])])
def test_the_log_so_far_of_what_has_just_ended_is_the_stored_one(kernels, server, kind, found):
    stored = json.dumps(EVENTS).encode()
    server.faults["logs"] = [Reply(200, stored, {"Content-Type": kind})]
    assert log_stream.so_far(kernels, KERNEL, 1, quiet=5.0) == found
