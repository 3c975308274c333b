"""What may enter: JSON without surprises, and text that every database, client and encoding takes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import InvalidInput
from tuner.wire.strict_json import parse_json, storable, unstorable
from tuner.wire.sync import Finish, Registration, Report

SOUND = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(SOUND),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(SOUND), inner, max_size=4),
)  # fmt: skip


@given(VALUES)
def test_whatever_is_sound_is_read_as_the_standard_library_reads_it(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.text(st.characters()))
def test_what_cannot_be_stored_is_found_and_replaced(text: str) -> None:
    sound = "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
    assert (storable(text) == text) == sound
    assert len(storable(text)) == len(text)
    assert storable(text).encode("utf-8").decode("utf-8") == storable(text)
    assert (list(unstorable({"a": [text]})) == []) == sound
    assert (list(unstorable({text: 1})) == []) == sound


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": {"b": 1, "b": 2}}', "body: the key 'b' is repeated"),
        (b'{"a": ["x", "\\u0000"]}', "a[1]: contains a NUL character"),
        (b'{"a\\ud800": 1}', "has the key 'a\\ud800', which cannot be stored"),
        (b'{"a": "\xed\xa0\x80"}', "body: is not UTF-8 text (byte 7)"),
        (b'{"a": "x\x00"}', "body:1: Invalid control character"),
        (b'{"a": 9223372036854775808}', "body: the integer 9223372036854775808 does not fit in 64 bits"),
        (b'{"a": -9223372036854775809}', "body: the integer -9223372036854775809 does not fit in 64 bits"),
        (b'{"a": ' + b"7" * 100_000 + b"}", "body: the integer 77777777777777777777... (100000 characters)"),
        (b"[Infinity]", "body: Infinity is not JSON"),
        (b"[" * 1_000_000, "body: is nested too deeply"),
        (b"", "body:1: Expecting value"),
        ("{}".encode("utf-16"), "body: is not UTF-8 text"),
    ],
)
def test_what_may_not_enter_is_named(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json(body)
    assert message in str(caught.value)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_what_a_program_wrote_reaches_the_server_whatever_it_holds() -> None:
    finish = Finish(trial=1, attempt=1, token="t", outcome="error", error="KeyError: 'a\x00b\udcff'")
    assert finish.error == "KeyError: 'a\ufffdb\ufffd'"
    row = Report(trial=1, attempt=1, step=1, examples=1, elapsed_s=0.0, metrics={"loss\x00": 1.0})
    assert row.metrics == {"loss\ufffd": 1.0}
    workloads = [{"name": "m\udcffx", "description": "\x00"}]
    hello = Registration(session="s" * 16, name="\udcff", devices=[{"device": "cpu", "width": 1}], workloads=workloads)
    for message in (finish, row, hello):
        assert parse_json(message.model_dump_json().encode()) is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"a" :1,"a":2}',
        b'{"a"\n:1,"a":2}',
        b'{"rows":[{"a":1},{"a":1,"b":{"c":1,"c":2}}]}',
        b'{"a":["\\":"],"b":1,"b":2}',
        b'{"a":[0.0012345678901234567,12345678901234567890]}',
        b"12345678901234567890",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
    ],
)
def test_the_fast_parser_lets_nothing_pass_that_the_careful_one_refuses(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_json(body)


def test_what_our_programs_send_is_parsed_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Report(
        trial=1, attempt=1, step=1, examples=1, elapsed_s=0.0012345678901234567, metrics={"loss\u00e9": 1e-300}
    )
    body = row.model_dump_json().encode()
    monkeypatch.setattr("tuner.wire.strict_json.load_json", None)
    assert parse_json(body) == row.model_dump()
