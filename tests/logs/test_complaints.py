"""Failures that repeat take a line each time the pause is over, not each time they happen."""

import logging

import pytest

from tuner.complaints import LONGEST_PAUSE_S, MOST_KINDS, Complaints

FULL = OSError(28, "No space left on device")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def complaints(clock: Clock) -> Complaints:
    return Complaints(logging.getLogger("test"), clock)


def test_a_failure_every_second_takes_few_lines_and_all_are_counted(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    day = 86_400
    for second in range(day):
        clock.now_s = float(second)
        complaints.say("no write", FULL, action="checkpoint")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "no write: OSError: [Errno 28] No space left on device"
    assert lines[1] == f"{lines[0]} (and 9 more since the last line)"
    assert len(lines) < 9 + day / LONGEST_PAUSE_S
    counted = sum(int(line.split("(and ")[1].split()[0]) for line in lines[1:])
    assert day - LONGEST_PAUSE_S <= counted + len(lines) <= day
    assert {record.__dict__["action"] for record in caplog.records} == {"checkpoint"}


def test_kinds_do_not_silence_each_other(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    for what, error in (
        ("no write", FULL),
        ("no delete", FULL),
        ("no write", OSError(13, "denied")),
        ("no write", ValueError()),
    ):
        complaints.say(what, error)
        complaints.say(what, error)
    assert len(caplog.records) == 4 and caplog.records[-1].getMessage() == "no write: ValueError"


def test_a_traceback_comes_once_and_a_message_takes_one_line(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("a\nb")
    complaints.say("no write", error, traceback=True)
    clock.now_s = 100.0
    complaints.say("no write", error, traceback=True)
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_many_kinds_are_not_remembered_for_ever(complaints: Complaints) -> None:
    for number in range(5 * MOST_KINDS):
        complaints.say(str(number), FULL)
    assert len(complaints._told) <= MOST_KINDS
