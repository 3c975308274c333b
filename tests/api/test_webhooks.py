"""Webhooks: told of every end, signed, tried again, given up in words, and never at an address of our own network."""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from sqlalchemy import text
from study_documents import study_document

from api.waits import Waits
from api.webhooks import telling
from api.webhooks.addresses import NotCallable, callable_address
from tuner.study.webhook import split

SECRET = "a secret for this test"
QUICK = Waits(tick_s=0.05, pause=0.0, webhooks_s=0.05)


@dataclass
class Listener:
    """A server that answers as it is told, and keeps what it heard."""

    answers: list[int] = field(default_factory=list)
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append((self.path, dict(self.headers), body))
            status = found.answers.pop(0) if found.answers else 204
            self.send_response(status)
            if status == 302:
                self.send_header("Location", found.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    found.url = f"http://localhost:{server.server_address[1]}/hook?x=1"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def near(serve_app: Callable[..., TestClient]) -> TestClient:
    """A server that may call addresses of its own machine."""
    return serve_app(waits=QUICK, webhook_private=True, webhook_secret=SECRET)


def history(client: TestClient, kind: str) -> list[dict[str, Any]]:
    items = client.get(f"/api/v1/studies/mine/history?kind={kind}").json()["items"]
    return [item["data"] for item in items]


def finish(client: TestClient, count: int) -> None:
    worker = FakeWorker(client, session=f"session-of-{count:06}", width=4)
    for assignment in worker.take(count):
        worker.finish(assignment, 0.25)


def test_an_end_is_told_once_and_signed(near: TestClient, listener: Listener) -> None:
    submit(near, name="mine", run_cap=2, webhook=listener.url)
    finish(near, 2)
    wait_for(lambda: history(near, "study.told"))
    ((path, headers, body),) = listener.heard
    told = json.loads(body)
    assert (path, headers["Host"]) == ("/hook?x=1", listener.url.split("/")[2])
    assert (told["event"], told["study"], told["state"]) == ("study.completed", "mine", "completed")
    assert told["best"]["value"] == 0.25
    assert told["counts"] == {"completed": 2}
    at, signed = (part.split("=")[1] for part in headers["Tuner-Signature"].split(","))
    assert hmac.compare_digest(signed, hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest())
    assert history(near, "study.told") == [{"webhook": listener.url, "status": 204, "tries": 1}]


def test_every_further_end_is_told_too(near: TestClient, listener: Listener) -> None:
    submit(near, name="mine", run_cap=1, webhook=listener.url)
    finish(near, 1)
    wait_for(lambda: len(history(near, "study.told")) == 1)
    near.patch("/api/v1/studies/mine", json={"run_cap": 2})
    near.post("/api/v1/studies/mine/stop")
    wait_for(lambda: len(history(near, "study.told")) == 2)
    assert [json.loads(body)["event"] for _, _, body in listener.heard] == ["study.completed", "study.stopped"]
    assert len({headers["Tuner-Delivery"] for _, headers, _ in listener.heard}) == 2


def test_it_is_tried_again_and_nothing_is_followed(
    near: TestClient, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "PAUSES_S", (0.1, 0.1, 0.1))
    listener.answers[:] = [500, 302]
    submit(near, name="mine", run_cap=1, webhook=listener.url)
    finish(near, 1)
    wait_for(lambda: history(near, "study.told"))
    assert history(near, "study.told")[0]["tries"] == 3
    assert len(listener.heard) == 3
    assert len({headers["Tuner-Delivery"] for _, headers, _ in listener.heard}) == 1


def test_it_is_given_up_and_the_history_says_why(
    near: TestClient, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "PAUSES_S", (0.1, 0.1))
    listener.answers[:] = [500] * 9
    submit(near, name="mine", run_cap=1, webhook=listener.url)
    finish(near, 1)
    wait_for(lambda: history(near, "study.not_told"))
    assert history(near, "study.not_told") == [{"webhook": listener.url, "why": "it answered 500", "tries": 3}]
    near.patch("/api/v1/studies/mine", json={"webhook": None})
    assert near.get("/api/v1/studies/mine").json()["document"]["webhook"] is None


def test_a_restart_forgets_no_end(serve_app: Callable[..., TestClient], listener: Listener) -> None:
    client = serve_app(waits=QUICK, webhook_private=True)
    database = client.app.state.server.database  # type: ignore[attr-defined]
    submit(client, name="mine", run_cap=1, webhook="http://localhost:1/closed")
    finish(client, 1)
    wait_for(lambda: client.get("/api/v1/studies/mine").json()["state"] == "completed")
    with database.read() as session:
        tries = text("select telling_tries from studies")
        wait_for(lambda: session.execute(tries).scalar_one() >= 0)
    client = serve_app(waits=QUICK, webhook_private=True)
    client.patch("/api/v1/studies/mine", json={"webhook": listener.url})
    with client.app.state.server.database.write() as session:  # type: ignore[attr-defined]
        session.execute(text("update studies set telling_next = null"))
    wait_for(lambda: listener.heard)
    assert "Tuner-Signature" not in listener.heard[0][1]


def test_an_address_of_our_own_network_is_not_called(serve_app: Callable[..., TestClient], listener: Listener) -> None:
    client = serve_app(waits=QUICK)
    submit(client, name="mine", run_cap=1, webhook=listener.url)
    finish(client, 1)
    wait_for(lambda: history(client, "study.not_told"))
    (said,) = history(client, "study.not_told")
    assert "which is not public; TUNER_WEBHOOK_PRIVATE=true allows it" in said["why"]
    assert listener.heard == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "[fe80::1]", "[::ffff:10.0.0.1]",
     "100.64.0.1", "2130706433", "0x7f.1"],
)  # fmt: skip
def test_every_way_to_write_a_private_address_is_seen_through(host: str) -> None:
    with pytest.raises((NotCallable, OSError)):
        callable_address(split(f"http://{host}/"), private=False)


def test_a_public_address_is_callable() -> None:
    assert callable_address(split("https://8.8.8.8/hook"), private=False) == "8.8.8.8"


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "example.org", "http://", "https://u:p@x/", "http://x:0/", "http://x/a b", 7]
)
def test_what_is_no_url_is_refused_by_field(serve_app: Callable[..., TestClient], url: object) -> None:
    answer = serve_app().post("/api/v1/studies", json=study_document(webhook=url))
    assert [fault["field"] for fault in answer.json()["errors"]] == ["webhook"]
