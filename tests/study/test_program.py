"""Fingerprints of programs, and how two programs differ."""

from hypothesis import given
from hypothesis import strategies as st

from tuner.study.program import difference, fingerprint

PROGRAMS = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=6
)
PROGRAM = {"device": "cpu", "threads": 1, "width": 32}


def test_a_fingerprint_is_twelve_hex_digits_and_stays_the_same() -> None:
    assert fingerprint(PROGRAM) == "9b86ac65ceb3"  # stored with attempts: another formula would part equal programs


@given(PROGRAMS, PROGRAMS)
def test_equal_programs_and_only_they_have_equal_fingerprints(one: dict[str, object], other: dict[str, object]) -> None:
    backwards = dict(reversed(one.items()))
    assert fingerprint(one) == fingerprint(backwards)  # type: ignore[arg-type]
    same = {k: (type(v), v) for k, v in one.items()} == {k: (type(v), v) for k, v in other.items()}
    assert (fingerprint(one) == fingerprint(other)) == same  # type: ignore[arg-type]


def test_a_difference_names_both_values_of_what_both_say() -> None:
    assert difference(PROGRAM, {"width": 8, "threads": 1, "path": "loop"}) == "width 32 (offered: 8)"
    assert difference(PROGRAM, {"width": 8, "device": "cuda"}) == "device cpu (offered: cuda), width 32 (offered: 8)"
    assert difference(PROGRAM, {}) == ""
