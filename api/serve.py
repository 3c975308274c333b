"""Running the server: one process plus local workers, shut down in order.

The local workers are started first: while their processes load torch, this one loads the app and opens the database,
and their first requests wait in the socket that it already listens on. On SIGINT, SIGTERM or SIGHUP (its terminal was
closed) the workers stop first (they return their trials), then event streams are closed and the server ends; all within
five seconds.
"""

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from api.listener import listen, url_of
from api.settings import Settings
from tuner import logs
from tuner.launchers.local import LocalWorkers


def serve(settings: Settings, ready: Callable[[str], None] | None = None) -> int:
    """Serve until a signal arrives; `ready` is called with the server's URL once it responds.

    Raises:
        CannotServe: the port is in use, the address is not available, or the workloads cannot be imported.
        DatabaseUnusable: the database cannot be opened.
        InvalidInput: other machines could reach it, and it would ask nobody for a token.
    """
    logs.configure(settings.log_form)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with listen(settings) as listener:
        url = url_of(settings, listener)
        secret = secrets.token_urlsafe(32)
        workers = _local_workers(settings, url, secret) if settings.local_workers else None
        starting = _started(workers) if workers is not None else None
        try:
            from api.running import run  # loads the app

            return run(settings, listener, url, workers, starting, ready, secret)
        finally:
            if workers is not None and starting is not None:
                starting.exception()
                workers.stop()


def _started(workers: LocalWorkers) -> "Future[None]":
    """Start the workers in a thread: finding out about GPUs takes seconds where there are any."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="workers")
    starting = executor.submit(workers.start)
    executor.shutdown(wait=False)
    return starting


def _local_workers(settings: Settings, url: str, secret: str) -> LocalWorkers:
    flags = ["--checkpoint-every-s", str(settings.checkpoint_every_s), "--hang-s", str(settings.hang_s)]
    return LocalWorkers(
        url,
        secret,
        settings.width,
        settings.data_dir / "logs",
        workloads=settings.workloads,
        flags=flags,
        environment={"TUNER_CHECKPOINTS": settings.store_root},  # a store's URL may hold its keys
    )
