"""`tuner check` and `tuner workloads`: is a workload fit for a study, and which ones does this machine know.

Neither needs a server. Heavy modules are imported inside.
"""

import json
import math
import os
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.errors import NotFound
from tuner.terminal.options import Workloads, parameter

if TYPE_CHECKING:
    from tuner.probe.checkup import Report

DEFAULT_MICRO_BATCH = 8
QUIET = "6"
"""Above every level at which torch's profiler, which counts the memory, would write to standard error."""


def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|MODULE|WORKLOAD", help="Your workloads, or a known one's name.", show_default=False
        ),
    ],
    name: Annotated[str | None, typer.Argument(help="Only this workload of the file.", show_default=False)] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the workload; may be repeated.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Say what a study's group with this `match` has; may be repeated."),
    ] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Examples per slot and tick.")] = DEFAULT_MICRO_BATCH,
    device: Annotated[str, typer.Option(help="cpu or cuda:0, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a workload before any study: what fails, what is slow, what would train something else than you mean.

    Builds it, runs one tick, one evaluation and one update with each family of optimizers, and measures.

    Exits with 0 if trials can train, with 1 if they would fail.

    Examples:
      tuner check my_workloads.py
      tuner check my_workloads.py my-network --param hidden=64
      tuner check my_workloads.py --group "head.*" --group "*.bias"
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", QUIET)
    from tuner.probe.checkup import check_up
    from tuner.terminal.check_report import show, show_fault, waiting
    from tuner.terminal.options import check_device

    check_device(device)
    params = dict(parameter(text) for text in param or [])
    found, fault = _imported(source, name)
    reports: list[Report] = []
    for each in found:
        with waiting(each) as note:
            how: dict[str, Any] = {"micro_batch": micro_batch, "device": device, "patterns": group or []}
            reports.append(check_up(each, params, note=note, **how))
        if not as_json:
            show(reports[-1])
    sound = fault is None and not any(report.fault for report in reports)
    if as_json:
        whole = {"source": source, "ok": sound, "fault": fault, "workloads": [asdict(report) for report in reports]}
        print(json.dumps(_finite(whole), indent=2))
    elif fault is not None:
        show_fault(fault)
    if not sound:
        raise typer.Exit(1)


def workloads(
    workloads: Workloads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the workloads that a worker on this machine knows: built-in ones, those of packages, your own.

    Examples:
      tuner workloads
      tuner workloads --workloads my_workloads.py
    """
    from tuner import workloads as registry
    from tuner.terminal.check_report import show_known
    from tuner.worker.device.device import import_workloads

    import_workloads(workloads or [])
    known = [(name, registry.origin(name), text) for name, text in registry.known().items()]
    if as_json:
        items = [{"name": name, "origin": origin, "description": text} for name, origin, text in known]
        print(json.dumps({"items": items}, indent=2))
    else:
        show_known(known)


def _imported(source: str, name: str | None) -> tuple[list[str], str | None]:
    """Return the workloads to check, or none and the fault of importing them.

    Raises:
        NotFound: there is no such file, module or workload.
    """
    from tuner import workloads as registry
    from tuner.probe.checkup.own_frames import shortened
    from tuner.worker.device.device import import_workloads

    if name is None and source in registry.names():
        return [source], None
    try:
        found = import_workloads([source])
    except NotFound:
        raise
    except (Exception, SystemExit):  # the user's own code runs here
        return [], shortened(traceback.format_exc())
    if name is not None and name not in found:
        raise NotFound(f"{source} registers no workload {name!r}; it registers {', '.join(found) or 'none'}")
    if not found:
        raise NotFound(
            f"{source} registers no workload; put @tuner.workload(NAME) before the function that returns one"
        )
    return [name] if name is not None else found, None


def _finite(value: Any) -> Any:
    """Write numbers that JSON lacks as text, as the API does."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
