"""Why the body of a loop was left: seen before any handler's code runs, whatever the body looks like."""

import contextlib
import sys
import threading
from collections.abc import Iterator

import pytest

from tuner.ask.leaving import NotSeen, leaving

SEEN: list[object] = []


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    SEEN.clear()
    yield
    assert sys.gettrace() is None and sys.excepthook is sys.__excepthook__, "nothing stays behind"


class Numbers:
    def __iter__(self) -> Iterator[int]:
        return self._numbers()

    def _numbers(self) -> Iterator[int]:
        for number in range(3):
            try:
                yield number
            except GeneratorExit:
                leaving(sys._getframe(1), SEEN.append)
                raise


def inner() -> int:
    return {}["k"]  # type: ignore[no-any-return]


def around() -> None:
    for _ in Numbers():
        inner()


def test_break_and_return_are_no_exception() -> None:
    def returns() -> int:
        for number in Numbers():
            return number
        return -1

    for _ in Numbers():
        break
    assert returns() == 0 and SEEN == [None, None]


def test_an_exception_that_was_kept_is_not_on_its_way() -> None:
    kept = []
    for _ in Numbers():
        try:
            inner()
        except KeyError as error:
            kept.append(error)
        break
    assert len(kept) == 1 and SEEN == [None]


def test_in_the_same_frame_before_the_handler_runs() -> None:
    try:
        for _ in Numbers():
            raise ValueError("boom")
    except ValueError as error:
        assert [error] == SEEN


def test_raised_by_c_code_by_a_nested_call_or_in_a_handler() -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in Numbers():
            1 / 0  # noqa: B018
    with contextlib.suppress(KeyError):
        for _ in Numbers():
            inner()
    try:
        raise OSError("outer")
    except OSError:
        with contextlib.suppress(ValueError):
            for _ in Numbers():
                int("x")
    assert [type(error) for error in SEEN] == [ZeroDivisionError, KeyError, ValueError]


def test_in_calling_frames_behind_finally_and_behind_c() -> None:
    with contextlib.suppress(KeyError):
        around()
    with contextlib.suppress(KeyError):
        list(map(lambda _: around(), [1]))
    order = []
    with contextlib.suppress(KeyError):
        try:
            for _ in Numbers():
                inner()
        finally:
            order.append(len(SEEN))
    assert [type(error) for error in SEEN] == [KeyError] * 3 and order == [3]


def test_what_ends_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    passed_on: list[object] = []
    monkeypatch.setattr(threading, "excepthook", passed_on.append)
    thread = threading.Thread(target=around)
    thread.start()
    thread.join()
    assert [type(error) for error in SEEN] == [KeyError] and len(passed_on) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_error_is_seen_too(kind: type[BaseException]) -> None:
    with contextlib.suppress(kind):
        for _ in Numbers():
            raise kind
    assert [type(error) for error in SEEN] == [kind]


def test_beside_a_debugger_the_stack_is_kept() -> None:
    sys.settrace(lambda *_: None)
    try:
        with contextlib.suppress(KeyError):
            for _ in Numbers():
                inner()
    finally:
        sys.settrace(None)
    (error,) = SEEN
    assert isinstance(error, NotSeen) and error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None, "down to where it was raised"
