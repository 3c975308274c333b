"""A study document in a file: YAML or JSON turned into plain values, with the line of every field.

Invariants:
- Numbers and booleans are read as YAML 1.2 reads them: `1e-3` is a number, `no` is a string, `010` is ten, dates are
  strings. (The 1.1 rules that PyYAML follows would turn `lr: 1e-3` into text.)
- A repeated key is a fault, never a silent overwrite; so is text or a number that cannot be stored.
- Every fault gives the file, and the line if there is one.
"""

import contextlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from tuner.errors import Fault, InvalidInput
from tuner.wire.strict_json import MOST_DIGITS, load_json, unstorable

MAX_BYTES = 1_000_000
"""A study document is about a page of text; anything larger is the wrong file."""


@dataclass(frozen=True)
class Document:
    """A study document as read: its values, where it came from, and the line of every field."""

    values: dict[str, Any]
    source: str
    lines: dict[str, int] = field(default_factory=dict)

    def locate(self, fault: Fault) -> str:
        """Format a fault with file and line; if its own line is unknown, with that of the nearest enclosing field."""
        path = fault.field
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        where = f"{self.source}:{self.lines[path]}" if path else self.source
        return f"{where}: {fault}"


def read_document(path: str | Path) -> Document:
    """Read a study document from a YAML or JSON file, or from standard input when `path` is `-`.

    Raises `InvalidInput` for text that is neither, for keys that are repeated or not text, and for a document that is
    not a mapping; `OSError` if the file cannot be read.
    """
    if str(path) == "-":
        return parse_document(_text(sys.stdin.buffer, "<stdin>"), "<stdin>")
    with open(path, "rb") as file:
        return parse_document(_text(file, str(path)), str(path))


def _text(file: BinaryIO, source: str) -> str:
    """Read UTF-8, whatever the terminal's encoding is."""
    try:
        return file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput([Fault(source, "is not UTF-8 text")]) from error


def plain(value: Any) -> Any:
    """Return a document's values as JSON has them: scalars and arrays of numpy and torch become numbers and lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # Both libraries call it so, and neither has to be loaded to ask for it.
    return value.tolist() if hasattr(value, "tolist") else value


def parse_document(text: str, source: str) -> Document:
    """Turn the text of a study document into values; `source` names it in messages. Raises `InvalidInput`."""
    if len(text) > MAX_BYTES:
        raise InvalidInput([Fault(source, f"is larger than {MAX_BYTES:,} characters: not a study document")])
    lines: dict[str, int] = {}
    if source.endswith(".json") or _is_json(text):
        values = load_json(text, source)
        with contextlib.suppress(InvalidInput):  # JSON that PyYAML cannot read keeps its values but has no line numbers
            _parse_yaml(text.replace("\t", " "), source, lines)
    else:
        values = _parse_yaml(text, source, lines)
    if not isinstance(values, dict):
        seen = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise InvalidInput([Fault(source, f"{seen}; a study document is a mapping such as 'workload: digits-mlp'")])
    document = Document(values, source, lines)
    if faults := list(unstorable(values)):
        raise InvalidInput("\n".join(document.locate(fault) for fault in faults))
    return document


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_yaml(text: str, source: str, lines: dict[str, int]) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise InvalidInput([Fault(where, error.problem or str(error))]) from error
    except yaml.YAMLError as error:
        raise InvalidInput([Fault(source, " ".join(str(error).split()))]) from error
    except RecursionError as error:
        raise InvalidInput([Fault(source, "is nested too deeply")]) from error
    _note_lines(node, "", lines)
    return values


def _note_lines(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            lines[inner] = key.start_mark.line + 1
            _note_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, f"{path}[{index}]", lines)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and without aliases or repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} is repeated here"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        problem = f"an integer of {len(node.value)} digits does not fit in 64 bits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return int(node.value)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {}  # start without the rules of YAML 1.1
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), ["n", "N", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
