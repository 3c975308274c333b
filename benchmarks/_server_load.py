"""Workers of `benchmarks/server.py` that train nothing, in a process of their own.

    python benchmarks/_server_load.py URL trials|rows|idle [--workers N] [--width N] [--rows N] [--trials N]

They say what a real worker says (`tuner.wire.sync`): programs, report rows with three metrics and noise sums, final
messages with the program once more. Text is put together from parts that were encoded once, and connections are kept,
so that the load takes little of the cores that it shares with the server. Prints a line when the load begins, and
count, wall_s and cpu_s of it as JSON when it ends.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tuner.worker.agent.agent import IDLE_WAIT_S

PROGRAM = json.dumps(
    {"device": "cpu", "hardware": "no-op", "dtype": "float32", "threads": 1, "width": 64, "path": "compiled",
     "micro_batch": 16, "torch": "2.13.0", "tuner": "0.1.0", "python": "3.11.7", "tf32": False, "deterministic": True}
)  # fmt: skip
METRICS = '{"train_loss":%(v).17g,"valid_loss":%(v).17g,"valid_accuracy":0.90625}'
NOISE = '{"n":32,"s":%(v).17g,"q":0.125,"ss":0.0625,"qq":0.5,"sq":0.25}'
ROW = (
    f'{{"trial":%(t)d,"attempt":%(a)d,"step":%(s)d,"examples":%(e)d,"elapsed_s":%(v).17g,"metrics":{METRICS},'
    f'"ticks":%(s)d,"computed":%(s)d,"noise":{NOISE}}}'
)
Json = dict[str, Any]


class Connection:
    """One kept connection; requests go one after the other."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: str) -> Json:
        """Send JSON and return the JSON of the answer."""
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**24)
        assert self._writer is not None
        data = body.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length:")[2].split()[0])
        content = await self._reader.readexactly(length)
        if " 503 " in answer[:20]:  # the database is busy: a worker tries again
            await asyncio.sleep(0.2)
            return await self.post(path, body)
        if " 200 " not in answer[:20] and " 201 " not in answer[:20]:
            raise SystemExit(f"{path}: {answer.splitlines()[0]} {content[:500]!r}")
        found: Json = json.loads(content)
        return found

    def close(self) -> None:
        """Hang up; the next request opens it again."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Worker:
    """One session with one device."""

    def __init__(self, url: str, name: str, width: int) -> None:
        self.width = width
        self._session = f"{name:0>16}"
        self._name = name
        self._seq = 0
        self._id = 0
        self._connection = Connection(url)

    async def register(self) -> None:
        """Get an id."""
        devices = [{"device": "cpu", "width": self.width}]
        body = {"session": self._session, "name": self._name, "devices": devices, "workloads": [{"name": "digits-mlp"}]}
        self._id = (await self._connection.post("/api/v1/workers", json.dumps(body)))["worker"]
        self._connection.close()  # the server does, while thousands of others register

    async def sync(self, holds: list[Json], ends: list[Json], rows: int, after: int = 0, wait_s: float = 0.0) -> Json:
        """State what is held and what ends; both report rows, from a step on."""
        self._seq += 1
        own = [*holds, *ends]
        stack = json.dumps(holds[0]["stack"] if holds else None)
        parts = {
            "capacity": f'{{"device":"cpu","stack":{stack},"free":{self.width - len(holds)}}}',
            "held": ",".join(_named(one) + "}" for one in holds),
            "started": ",".join(
                f'{{"trial":{one["trial"]},"attempt":{one["attempt"]},"program":{PROGRAM}}}' for one in own
            ),
            "reports": ",".join(_rows(one, rows, after) for one in own if rows),
            "finished": ",".join(
                f'{_named(one)},"outcome":"finished","step":{after + rows},"examples":{16 * (after + rows)},'
                f'"program":{PROGRAM}}}'
                for one in ends
            ),
        }
        lists = ",".join(f'"{name}":[{content}]' for name, content in parts.items())
        head = f'"session":"{self._session}","seq":{self._seq},"wait_s":{wait_s}'
        return await self._connection.post(f"/api/v1/workers/{self._id}/sync", f"{{{head},{lists}}}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _named(one: Json) -> str:
    return f'{{"trial":{one["trial"]},"attempt":{one["attempt"]},"token":"{one["token"]}"'


def _rows(one: Json, count: int, after: int) -> str:
    base = {"t": one["trial"], "a": one["attempt"]}
    return ",".join(
        ROW % {**base, "s": step, "e": 16 * step, "v": 1 / step + 1e-3 * one["params"]["lr"]}
        for step in range(after + 1, after + count + 1)
    )


class Clock:
    """Times the load, without what prepares it."""

    def begin(self) -> None:
        """Say that the load begins."""
        print("begin", flush=True)
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, count: int) -> None:
        """Say what was done."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        print(json.dumps({"count": count, "wall_s": wall, "cpu_s": cpu}), flush=True)


async def submit(url: str, run_cap: int, parallel: int) -> None:
    """Start a study of random configurations."""
    document = {
        "name": f"load-{time.time_ns()}", "workload": "digits-mlp", "optimizers": ["sgd", "adamw"],
        "parameters": {"batch_size": {"values": [16, 32]}}, "method": "random", "run_cap": run_cap,
        "parallel": parallel, "budget": {"examples_per_trial": 640, "max_failed": run_cap}, "metric": "valid_loss",
    }  # fmt: skip
    connection = Connection(url)
    await connection.post("/api/v1/studies", json.dumps(document))
    connection.close()


async def trials(url: str, options: argparse.Namespace, clock: Clock) -> None:
    """Run a study of trials that end at once."""
    crew = await crew_of(url, options)
    clock.begin()
    await submit(url, options.trials, min(10_000, 2 * options.workers * options.width))
    done = 0

    async def work(worker: Worker) -> None:
        nonlocal done
        ends: list[Json] = []
        while done < options.trials:
            reply = await worker.sync([], ends, options.rows, wait_s=0.0 if ends else 1.0)
            done += len(ends)
            ends = reply["assign"]
        worker.close()

    await asyncio.gather(*map(work, crew))
    clock.end(done)


async def rows(url: str, options: argparse.Namespace, clock: Clock) -> None:
    """Report rows of trials that go on, for some seconds."""
    crew = await crew_of(url, options)
    await submit(url, options.workers * options.width, options.workers * options.width)
    held: list[list[Json]] = [[] for _ in crew]
    for worker, holds in zip(crew, held, strict=True):
        while len(holds) < worker.width:
            holds += (await worker.sync(holds, [], 0, wait_s=1.0))["assign"]
    clock.begin()
    until, sent = time.monotonic() + options.seconds, 0

    async def work(worker: Worker, holds: list[Json]) -> int:
        nonlocal sent
        step = 0
        while time.monotonic() < until:
            await worker.sync(holds, [], options.rows, after=step)
            step += options.rows
            sent += len(holds) * options.rows
        return step

    steps = await asyncio.gather(*map(work, crew, held))
    clock.end(sent)
    for worker, holds, step in zip(crew, held, steps, strict=True):
        await worker.sync([], holds, 1, after=step)
        worker.close()


async def idle(url: str, options: argparse.Namespace, clock: Clock) -> None:
    """Wait for work that does not come, as the agent does; counts the syncs answered."""
    crew = await crew_of(url, options)
    answered = 0

    async def work(worker: Worker, number: int) -> None:
        nonlocal answered
        await asyncio.sleep(IDLE_WAIT_S * number / len(crew))
        while True:
            await worker.sync([], [], 0, wait_s=IDLE_WAIT_S)
            answered += 1

    tasks = [asyncio.create_task(work(worker, number)) for number, worker in enumerate(crew)]
    await asyncio.sleep(min(IDLE_WAIT_S, options.seconds))
    clock.begin()
    answered = 0
    await asyncio.sleep(options.seconds)
    clock.end(answered)
    for task in tasks:
        if task.done():
            task.result()  # raises
        task.cancel()


async def crew_of(url: str, options: argparse.Namespace) -> list[Worker]:
    """Start the workers."""
    crew = [Worker(url, f"w{time.time_ns() + i}", options.width) for i in range(options.workers)]
    for worker in crew:
        await worker.register()
    return crew


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("what", choices=["trials", "rows", "idle"])
    for name, default in (("workers", 8), ("width", 64), ("rows", 20), ("trials", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    asyncio.run({"trials": trials, "rows": rows, "idle": idle}[options.what](options.url, options, Clock()))


if __name__ == "__main__":
    main()
