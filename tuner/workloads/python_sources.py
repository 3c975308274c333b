"""The text of `text-gpt`: source files of the Python standard library of the interpreter that runs the worker.

The files are listed here, in order; their content differs between versions of Python, so the text is identified by its
SHA-256, which becomes part of the program. Training and validation use different files.
"""

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tuner.errors import InvalidInput

TRAIN_FILES = (
    *("abc", "argparse", "ast", "base64", "bdb", "bisect", "calendar", "cmd", "codecs", "configparser", "contextlib"),
    *("copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "dis", "doctest", "enum", "filecmp", "fileinput"),
    *(
        "fnmatch",
        "fractions",
        "functools",
        "getopt",
        "glob",
        "gzip",
        "hashlib",
        "heapq",
        "hmac",
        "inspect",
        "ipaddress",
    ),
    *("locale", "lzma", "mailbox", "mimetypes", "netrc", "ntpath", "numbers", "operator", "optparse", "os", "pickle"),
    *("pickletools", "platform", "plistlib", "posixpath", "pprint", "profile", "pstats", "queue", "random", "sched"),
    *("secrets", "selectors", "shelve", "shutil", "smtplib", "socket", "socketserver", "stat", "statistics", "string"),
)
VALID_FILES = ("tarfile", "textwrap", "threading", "tokenize", "traceback", "typing", "uuid", "warnings", "zipfile")


@dataclass(frozen=True)
class Sources:
    """Two texts as bytes, and the SHA-256 of both together."""

    train: bytes
    valid: bytes
    digest: str


@cache
def python_sources() -> Sources:
    """Read the files. Raises `InvalidInput` if this interpreter comes without its library's sources."""
    library = Path(sysconfig.get_path("stdlib"))
    train, valid = (b"\n".join(_read(library, name) for name in names) for names in (TRAIN_FILES, VALID_FILES))
    return Sources(train, valid, hashlib.sha256(train + b"\0" + valid).hexdigest())


def _read(library: Path, name: str) -> bytes:
    """Return a module's source, or that of its `__init__` if later versions of Python made it a package."""
    for path in (library / f"{name}.py", library / name / "__init__.py"):
        if path.is_file():
            return path.read_bytes()
    raise InvalidInput(f"text-gpt needs the source of Python's module {name!r}, and {library} has none")
