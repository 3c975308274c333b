"""`tuner advice`: the batch-size advice of a study, and with step times the fastest batch size.

Step times belong to the machine that will train, so they are measured where the command runs, or given. Heavy modules
are imported inside.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import Fault, InvalidInput
from tuner.terminal.options import Json, Server, Study, TokenFile, Workloads, connect

if TYPE_CHECKING:
    from tuner.client import Client


def advice(
    study: Study,
    server: Server = None,
    token_file: TokenFile = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time steps of the best optimizer on this machine, for `fastest`.")
    ] = False,
    step_times: Annotated[
        str | None,
        typer.Option(metavar="16=0.003,...", help="Seconds per step by batch size, of your own loop, for `fastest`."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to measure (default: a GPU if there is one).")] = None,
    workloads: Workloads = None,
    as_json: Json = False,
) -> None:
    """Recommend batch sizes, with intervals, grades, and the experiment that would narrow them.

    Examples:
      tuner advice digits-optimizers
      tuner advice digits-optimizers --measure
      tuner advice digits-optimizers --step-times 16=0.0031,64=0.0042,256=0.0096
    """
    from rich.text import Text

    from tuner.terminal.console import console, messages, print_json
    from tuner.terminal.reports import advice_report

    if measure and step_times is not None:
        raise InvalidInput([Fault("--step-times", "was given, and so was --measure; allowed is one of them")])
    times, optimizer = None if step_times is None else _times(step_times), None
    with connect(server, token_file) as client:
        if measure:
            optimizer, found = _measured(client, study, device, workloads or [])
            listed = ", ".join(f"{size}: {1e3 * seconds:.3g} ms" for size, seconds in found.items())
            times = found
            messages().print(Text(f"a step of {optimizer} on this machine, by batch size: {listed}", "dim"))
        items = client.batch_advice(study, times, optimizer)
    if as_json:
        print_json(items)
    else:
        console().print(advice_report(items))


def _measured(client: "Client", study: str, device: str | None, sources: list[str]) -> tuple[str, dict[int, float]]:
    """Time steps of the study's workload with its best optimizer; return that and seconds by batch size."""
    import torch

    from tuner import workloads
    from tuner.probe.lone_step import time_steps
    from tuner.study.spec import WorkloadRef
    from tuner.worker.device.device import import_workloads

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    document = client.study(study).document
    optimizer = client.batch_advice(study).items[0].optimizer
    import_workloads(sources)
    wanted = WorkloadRef.model_validate(document["workload"])
    return optimizer, time_steps(workloads.load(wanted.name, wanted.params), optimizer, place)


def _times(text: str) -> dict[int, float]:
    try:
        return {int(size): float(seconds) for size, seconds in (part.split("=") for part in text.split(","))}
    except ValueError:
        fault = f"is {text!r}; expected BATCH=SECONDS, e.g. 16=0.0031,64=0.0042,256=0.0096"
        raise InvalidInput([Fault("--step-times", fault)]) from None
