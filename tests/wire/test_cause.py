"""The cause of an error is the line that Python prints for the exception, however long the traceback is."""

import traceback

import pytest

from tuner.wire.cause import MOST, cause_of


class Odd(Exception):
    """An exception of a user's."""


def raised(error: Exception, cause: Exception | None = None) -> str:
    try:
        raise error from cause
    except Exception:
        return traceback.format_exc()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("too few"), "ValueError: too few"),
        (ValueError("too few:\n  3 of 4\nor so"), "ValueError: too few:"),
        (Odd("mine"), f"{__name__}.Odd: mine"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (TypeError("no <object at 0x7f12abCD>"), "TypeError: no <object at 0x...>"),
    ],
)
def test_it_is_the_exceptions_own_line(error: Exception, expected: str) -> None:
    assert cause_of(raised(error)) == expected
    assert cause_of(raised(error, OSError("before it"))) == expected


def test_other_texts_give_their_first_line() -> None:
    assert cause_of("the device process of cpu ended with signal 9\nmore") == (
        "the device process of cpu ended with signal 9"
    )
    assert cause_of("") == "" and len(cause_of("x" * 2000)) == MOST
