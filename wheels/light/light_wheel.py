"""Build backend of `tuner-optim`: those parts of Tuner's tree that need nothing but torch and numpy, as a wheel.

A backend of our own, because the wheel is a selection of files of another project's packages, and because it builds
wherever Python is, without network. Reference: PEP 517 (hooks), the binary distribution format of packaging.python.org.
Invariant: the same tree gives the same bytes.
"""

import base64
import hashlib
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PACKAGES = ("optimizers", "schedules", "noise")
STUDY = ("__init__", "hyperparameter", "layer_depth", "parameter_groups")
FILES = ("__init__.py", "draws.py", "errors.py", "py.typed", *(f"study/{name}.py" for name in STUDY))
NEEDED = ("numpy", "torch")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: zip files cannot say less."""


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel; return its name."""
    light, whole = _project(HERE), _project(ROOT)
    stem = f"{light['name'].replace('-', '_')}-{whole['version']}"
    info = f"{stem}.dist-info"
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in _sources()}
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/METADATA"] = _metadata(light, whole).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: light_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join([*map(_record, files, files.values()), f"{info}/RECORD,,\n"]).encode()
    name = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content)
    return name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Refuse: the sources are the whole project's."""
    raise NotImplementedError("tuner-optim has no source distribution of its own; build its wheel from Tuner's tree")


def _sources() -> Iterator[Path]:
    """Yield the files of the tree, in a fixed order."""
    package = ROOT / "tuner"
    yield from (package / name for name in FILES)
    for name in PACKAGES:
        found = (package / name).rglob("*")
        yield from sorted(path for path in found if path.suffix in (".py", ".json"))


def _project(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def _metadata(light: dict[str, Any], whole: dict[str, Any]) -> str:
    needed = [line for line in whole["dependencies"] if line.partition(">")[0] in NEEDED]
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {light['name']}",
        f"Version: {whole['version']}",
        f"Summary: {light['description']}",
        f"License-Expression: {whole['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {whole['requires-python']}",
        *(f"Requires-Dist: {line}" for line in needed),
    ]
    return "\n".join(lines) + "\n"


def _record(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"
