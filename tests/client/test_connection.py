"""What every kind of answer, and every way of not answering, means to a caller."""

import socket
import threading
from collections.abc import Callable

import httpx2
import pytest

from tuner import connection
from tuner.client import Client
from tuner.errors import (
    Conflict,
    Fault,
    Forbidden,
    InvalidInput,
    NameTaken,
    NotAllowed,
    NotFound,
    TunerError,
    Unreachable,
)

HEALTH = {"status": "ok", "service": "tuner", "version": "0.1.0"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_DELAYS_S", (0.0, 0.0))


def client(handler: Callable[[httpx2.Request], httpx2.Response], token: str | None = None) -> Client:
    return Client("http://server:8700", token, transport=httpx2.MockTransport(handler))


def problem(status: int, kind: str, **more: object) -> httpx2.Response:
    body = {"type": kind, "title": "T", "status": status, "detail": "what is wrong", "errors": [], **more}
    return httpx2.Response(status, json=body, headers={"Content-Type": "application/problem+json"})


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (404, "tuner:not-found", NotFound),
        (409, "tuner:conflict", Conflict),
        (409, "tuner:name-taken", NameTaken),
        (422, "tuner:invalid-input", InvalidInput),
        (400, "tuner:invalid-input", InvalidInput),
        (413, "tuner:too-large", InvalidInput),
        (401, "tuner:not-allowed", NotAllowed),
        (403, "tuner:not-allowed", Forbidden),
        (500, "about:blank", TunerError),
        (503, "about:blank", Unreachable),
    ],
)
def test_a_problem_becomes_the_error_that_the_server_raised(status: int, kind: str, error: type[TunerError]) -> None:
    with pytest.raises(TunerError, match="what is wrong") as caught:
        client(lambda request: problem(status, kind)).study("demo")
    assert type(caught.value) is error


def test_every_fault_of_an_input_arrives() -> None:
    errors = [{"field": "lr.min", "message": "is -1"}, {"field": "method", "message": "is 'x'"}]
    with pytest.raises(InvalidInput) as caught:
        client(lambda request: problem(422, "tuner:invalid-input", errors=errors)).submit({"name": "x"})
    assert caught.value.faults == (Fault("lr.min", "is -1"), Fault("method", "is 'x'"))


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, text="<html>a router</html>", headers={"Content-Type": "text/html"}),
        httpx2.Response(200, json={"hello": "world"}),
        httpx2.Response(200, content=b"{broken", headers={"Content-Type": "application/json"}),
        httpx2.Response(404, text="not here"),
        httpx2.Response(404, json={"detail": "Not Found"}),
        httpx2.Response(500, content=b"[]", headers={"Content-Type": "application/problem+json"}),
        httpx2.Response(302, headers={"Location": "http://elsewhere/"}),
    ],
)
def test_an_answer_that_is_not_ours_is_one_line_with_address_and_remedy(response: httpx2.Response) -> None:
    with pytest.raises(Unreachable) as caught:
        client(lambda request: response).health()
    text = str(caught.value)
    assert text.startswith("http://server:8700 answered GET /healthz with ")
    assert text.endswith("it is not a Tuner server of this version; check --server (or TUNER_SERVER)")
    assert "\n" not in text


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as nobody, pytest.raises(Unreachable) as caught:
        nobody.health()
    expected = f"no server at http://127.0.0.1:{port}: connection refused; start one with 'tuner serve'"
    assert str(caught.value) == expected


def test_a_listener_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.1) as waiting, pytest.raises(Unreachable, match=f"no response from {url}"):
            waiting.health()


def test_a_listener_that_hangs_up() -> None:
    def hang_up(listener: socket.socket) -> None:
        for _ in range(3):
            listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            Client(url) as waiting,
            pytest.raises(Unreachable, match=f"^{url} closed the connection: .+; try again, or check"),
        ):
            waiting.health()
        thread.join()


def failing(times: int, error: Exception | int) -> tuple[Callable[[httpx2.Request], httpx2.Response], list[str]]:
    asked: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        if len(asked) > times:
            return httpx2.Response(200, json=HEALTH)
        if isinstance(error, int):
            return httpx2.Response(error, text="busy")
        raise error

    return handler, asked


@pytest.mark.parametrize("error", [httpx2.ConnectError("x"), httpx2.ReadError("x"), 502, 503])
def test_a_get_is_tried_three_times(error: Exception | int) -> None:
    handler, asked = failing(2, error)
    assert client(handler).health().version == "0.1.0"
    assert len(asked) == 3
    handler, asked = failing(3, error)
    with pytest.raises(Unreachable):
        client(handler).health()
    assert len(asked) == 3


@pytest.mark.parametrize(("error", "tries"), [(httpx2.ConnectError("x"), 3), (httpx2.ReadError("x"), 1), (503, 1)])
def test_a_post_is_sent_again_only_if_it_never_arrived(error: Exception | int, tries: int) -> None:
    handler, asked = failing(9, error)
    with pytest.raises(Unreachable):
        client(handler).stop("demo")
    assert asked == ["POST"] * tries


def test_the_token_travels_in_its_header_and_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx2.Response(200, json=HEALTH)

    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    client(handler).health()
    client(handler, "given").health()
    monkeypatch.setenv("TUNER_TOKEN", "from-environment")
    client(handler).health()
    assert seen == [None, "Bearer given", "Bearer from-environment"]


def test_the_address_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_SERVER", "http://head:1234/")
    assert Client().url == "http://head:1234"
    monkeypatch.delenv("TUNER_SERVER")
    assert Client().url == "http://127.0.0.1:8700"


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://", "http://a:port", "nonsense"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^server: .* is not an address such as http://127.0.0.1:8700$"):
        Client(url)


def test_a_token_with_a_line_break_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        Client("http://server", "secret\nother")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "secret-secret-secret"])
def test_code_asks_for_exact_results(token: str | None) -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.headers["Cache-Control"], request.headers.get("Authorization")))
        return httpx2.Response(200, json=HEALTH)

    client(answer, token).health()
    assert asked == [("no-cache", f"Bearer {token}" if token else None)]
