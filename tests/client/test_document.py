"""Study documents in files: what YAML means here, and where faults are."""

import io
from pathlib import Path

import pytest

from tuner.document import MAX_BYTES, parse_document, read_document
from tuner.errors import Fault, InvalidInput

TEXT = """\
name: digits
optimizers:
  - sgd
  - name: muon
    lr: {min: 1e-3,
         max: 0.1}
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("1.0e-3", 0.001), (".5", 0.5), ("-1.", -1.0), ("5", 5), ("-5", -5), ("010", 10)),
        *(("true", True), ("False", False), ("no", "no"), ("on", "on"), ("~", None), ("", None), ("null", None)),
        *(("1:30", "1:30"), ("30m", "30m"), ("2024-01-01", "2024-01-01"), ("'5'", "5"), ("1_000", "1_000")),
        (".inf", float("inf")),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_document(f"x: {text}", "s.yaml").values["x"]
    assert read == value
    assert type(read) is type(value)


def test_faults_of_the_server_find_their_line() -> None:
    document = parse_document(TEXT, "s.yaml")
    assert document.locate(Fault("optimizers[1].lr.max", "is 0.1")) == "s.yaml:6: optimizers[1].lr.max: is 0.1"
    assert document.locate(Fault("optimizers[1].lr.scaling", "is x")) == "s.yaml:5: optimizers[1].lr.scaling: is x"
    assert document.locate(Fault("workload", "is missing")) == "s.yaml: workload: is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "s.yaml:3: the key 'a' is repeated here"),
        ("a: {b: 1,\n b: 2}", "s.yaml:2: the key 'b' is repeated here"),
        ("a: 1\nb: [1", "s.yaml:2: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n2: x", "s.yaml:2: a key must be text"),
        ("a: &x 1\nb: *x", "s.yaml:2: aliases (*name) are not supported"),
        ("a: !!python/name:os.system", "s.yaml:1: could not determine a constructor for the tag"),
        ("- 1", "s.yaml: holds a list; a study document is a mapping"),
        ("# nothing", "s.yaml: is empty; a study document is a mapping"),
        ("a: \x07", "s.yaml: unacceptable character"),
        ("a: " + "[" * 5000, "s.yaml: is nested too deeply"),
        ('a: 1\nb: {c: ["\\0"]}', "s.yaml:2: b.c[0]: contains a NUL character, which cannot be stored"),
        ('a: "\\ud800"', "s.yaml:1: a: contains half of a character (U+D800), which cannot be stored"),
        (f"a: 1\nb: {2**63}", "s.yaml:2: b: is 9223372036854775808, an integer that does not fit in 64 bits"),
        ("a: " + "9" * 10_000, "s.yaml:1: an integer of 10000 digits does not fit in 64 bits"),
        ("a" * (MAX_BYTES + 1), "s.yaml: is larger than 1,000,000 characters"),
    ],
)
def test_faults_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, "s.yaml")
    assert str(caught.value).startswith(message)


def test_json_with_tabs_is_read_as_json() -> None:
    text = '{\n\t"name": "a",\n\t"x": [1, 2.5, true, null, "1e-3"]\n}'
    for source in ("s.json", "<stdin>"):
        document = parse_document(text, source)
        assert document.values == {"name": "a", "x": [1, 2.5, True, None, "1e-3"]}
        assert document.locate(Fault("x[1]", "is 2.5")) == f"{source}:3: x[1]: is 2.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n"b" 2}', "s.json:2: Expecting ':' delimiter"),
        ('{"a": 1, "a": 2}', "s.json: the key 'a' is repeated"),
        ('{"a": 1' + "0" * 5000 + "}", "s.json: the integer 10000000000000000000... (5001 characters) does not fit"),
        ('{"a": NaN}', "s.json: NaN is not JSON"),
        ('{"a": [{"b": "\\ud83d"}]}', "s.json:1: a[0].b: contains half of a character (U+D83D)"),
    ],
)
def test_faults_in_json(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, "s.json")
    assert str(caught.value).startswith(message)


def test_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(TEXT, encoding="utf-8-sig")
    assert read_document(file).values == parse_document(TEXT, "x").values
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="ascii"))
    assert read_document("-").source == "<stdin>"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InvalidInput, match="is not UTF-8 text"):
        read_document(file)
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "none.yaml")
