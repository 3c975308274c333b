"""A small HTTP server with scripted answers, and sample values as the API sends them."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AT = "2026-01-02T03:04:05Z"
Answer = tuple[int, str, bytes]


def problem(status: int, kind: str, detail: str, errors: list[dict[str, str]] | None = None) -> Answer:
    body = {"type": kind, "title": kind, "status": status, "detail": detail, "errors": errors or []}
    return status, "application/problem+json", json.dumps(body).encode()


def answer(value: object, status: int = 200) -> Answer:
    return status, "application/json", json.dumps(value).encode()


def trial(
    number: int = 7, optimizer: str = "muon", value: float | str | None = 0.081234, **more: Any
) -> dict[str, Any]:
    params = {"optimizer": optimizer, "lr": 0.0213456, "batch_size": 32, "schedule": "cosine", "momentum": 0.9512}
    return {
        **{"study": "demo", "number": number, "state": "completed", "optimizer": optimizer, "params": params},
        **{"seed": 0, "value": value, "step": 625, "examples": 20000, "total_steps": 625, "total_examples": 20000},
        **{"attempt": 1, "created_at": AT, "started_at": AT, "finished_at": AT},
        **more,
    }


def study(**more: Any) -> dict[str, Any]:
    return {
        **{
            "id": 1,
            "name": "demo",
            "title": "",
            "state": "completed",
            "workload": "digits-mlp",
            "metric": "valid_loss",
        },
        **{"goal": "minimize", "method": "tpe", "optimizers": ["muon", "adamw"], "run_cap": 64, "parallel": 32},
        "swept": {"muon": ["lr", "batch_size", "schedule"], "adamw": ["lr", "batch_size", "schedule"]},
        **{"examples_per_trial": 20000, "counts": {"completed": 62, "infeasible": 2}, "examples_done": 1_260_000},
        **{"best": trial(), "revision": 9, "created_at": AT, "document": {"workload": "digits-mlp"}},
        **more,
    }


def study_view(**more: Any) -> dict[str, Any]:
    """A study as lists show it: without its document."""
    return {key: value for key, value in study(**more).items() if key != "document"}


class FakeServer(ThreadingHTTPServer):
    """Answers from `routes`: (method, path) to an answer, or to a function of the body. Records what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Answer | Callable[[bytes], Answer]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def set(self, path: str, value: Answer | Callable[[bytes], Answer], method: str = "GET") -> None:
        self.routes[method, path] = value


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def _answer(self) -> None:
        path, _, _query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers.items()), body))
        missing = problem(404, "tuner:not-found", f"there is no {path}")
        found = self.server.routes.get((self.command, path), missing)
        status, media_type, content = found(body) if callable(found) else found
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass
