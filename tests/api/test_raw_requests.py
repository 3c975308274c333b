"""Raw requests, as no client of ours would send them: the server answers each, and never with a failure of its own.

They go to the app below any HTTP library: paths, queries, headers, cookies and bodies are arbitrary bytes.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from postgresql import fresh_database
from study_documents import study_document

from api.app import create_app, open_database
from api.settings import Settings

TOKEN = "correct horse battery staple"
HOST = b"127.0.0.1:8700"
Headers = list[tuple[bytes, bytes]]
Ask = Callable[[str, str, Headers, bytes], int]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Send one raw request to an app that holds a study; returns the status."""
    if request.param == "sqlite":
        yield from _asking(Settings(data_dir=tmp_path_factory.mktemp("raw"), token=TOKEN))  # type: ignore[arg-type]
        return
    data: Path = tmp_path_factory.mktemp("raw")
    url = fresh_database(request.getfixturevalue("postgresql_url"))
    yield from _asking(Settings(data_dir=data, database_url=url, token=TOKEN))  # type: ignore[arg-type]


def _asking(found: Settings) -> Iterator[Ask]:
    app = create_app(found, open_database(found))
    with TestClient(app, base_url="http://127.0.0.1:8700", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.post("/api/v1/studies", json=study_document(name="small")).status_code == 201

        def send(method: str, target: str, headers: Headers, body: bytes) -> int:
            assert client.portal is not None
            return client.portal.call(_send, app, method, target, headers, body)

        yield send


async def _send(app: object, method: str, target: str, headers: Headers, body: bytes) -> int:
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8700), "state": {},
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    status = 0

    async def receive() -> dict[str, object]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: dict[str, object]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = int(str(message["status"]))

    # An event stream has no end of its own; its status is all that counts here.
    await asyncio.wait_for(app(scope, receive, send), 20)  # type: ignore[operator]
    return status


AUTHORISED: Headers = [(b"host", HOST), (b"authorization", f"Bearer {TOKEN}".encode())]
JSON: Headers = [*AUTHORISED, (b"content-type", b"application/json")]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"host", b"[::1"),
        (b"host", b"localhost:99999"),
        (b"host", b"localhost:nine"),
        (b"host", b"\xff\xfe"),
        (b"host", b"[v1.x]"),
        (b"origin", b"http://["),
        (b"origin", b"\xb2"),
        (b"cookie", b"tuner_8700=\xe4\xb8\xad"),
        (b"cookie", b'tuner_8700="\xe4"'),
        (b"cookie", b"tuner_8700=\xff; =;;,\x01"),
        (b"authorization", b"Bearer \xff\xff"),
        (b"content-length", b"\xb2"),
        (b"content-length", b"9" * 5000),
        (b"idempotency-key", b"a\x00b"),
        (b"last-event-id", b"\xb2"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(ask: Ask, header: bytes, value: bytes) -> None:
    others = [
        pair for pair in ([*JSON] if header not in (b"cookie", b"authorization") else JSON[:1]) if pair[0] != header
    ]
    assert 400 <= ask("POST", "/api/v1/studies", [*others, (header, value)], b"{}") < 500
    assert ask("GET", "/api/v1/studies/nothing/events", [*others, (header, value)], b"") < 500


@pytest.mark.parametrize("number", ["-1", str(2**31), str(2**63), str(2**64), "9" * 4000, "1e9", "%C2%B2"])
@pytest.mark.parametrize("part", ["", "/curve", "/weights", "/figures/noise"])
def test_a_trial_number_beyond_the_database_is_refused(ask: Ask, number: str, part: str) -> None:
    assert ask("GET", f"/api/v1/studies/small/trials/{number}{part}", AUTHORISED, b"") == 422


def test_a_nul_is_refused_wherever_it_stands(ask: Ask) -> None:
    for target in (
        "/api/v1/studies/a%00b",
        "/api/v1/studies/small/figures/%00",
        "/api/v1/studies/small/trials?sort=%00",
        "/static/%00",
        "/%00",
    ):
        assert 400 <= ask("GET", target, AUTHORISED, b"") < 500
    body = b'{"name": "nul", "title": "a\\u0000b", "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 1}'
    assert ask("POST", "/api/v1/studies", JSON, body) == 422


TEXTS = st.one_of(
    st.sampled_from(["small", "1", "trials", "0", "workers", "sync", "..", "%00", "%ff", "%E0%A4%A", str(2**64), "~"]),
    st.text(max_size=8),
)
PATHS = st.one_of(
    st.lists(TEXTS, max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.lists(TEXTS, max_size=4).map(lambda parts: "/api/v1/" + "/".join(parts)),
    st.lists(TEXTS, max_size=3).map(lambda parts: "/static/" + "/".join(parts)),
)
QUERIES = st.one_of(
    st.just(""),
    st.text(max_size=12),
    st.tuples(st.sampled_from(["limit", "cursor", "state", "sort", "metric", "points"]), TEXTS).map("=".join),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6),
    st.sampled_from(["\x00", "\ud800", "1e999", "inf", "digits-mlp", "sgd"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
DOCUMENTS = st.tuples(
    st.sampled_from([*sorted(study_document()), "title", "metric", "seed", "retry", "micro_batch"]), VALUES
).map(lambda change: {**study_document(run_cap=1), change[0]: change[1], "name": "fuzzed"})


def _written(value: object) -> bytes:
    return json.dumps(value).encode()  # lone surrogates as escapes, NaN as no JSON at all


BODIES = st.one_of(st.binary(max_size=40), VALUES.map(_written), DOCUMENTS.map(_written))
NAMES = [
    b"host", b"origin", b"cookie", b"authorization", b"content-length", b"content-type", b"range", b"if-none-match",
    b"idempotency-key", b"last-event-id", b"sec-fetch-site", b"accept-encoding",
]  # fmt: skip
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=20)), max_size=3)


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"]),
    path=PATHS,
    query=QUERIES,
    headers=HEADERS,
    body=BODIES,
    polite=st.booleans(),
)
@example("POST", "/api/v1/workers", "", [], b'{"session": "\\ud800"}', True)
@example("POST", "/api/v1/studies", "", [], b"[" * 100_000, True)
@example("POST", "/api/v1/studies", "", [], b"9" * 10_000, True)
@settings(max_examples=150, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_raw_request_makes_the_server_fail(
    ask: Ask, method: str, path: str, query: str, headers: Headers, body: bytes, polite: bool
) -> None:
    if path.rstrip("/").endswith("/events"):
        return
    target = "".join(c if c.isascii() else "%FC" for c in f"{path}{'?' * bool(query)}{query}")
    assert 200 <= ask(method, target, [*(JSON if polite else []), *headers], body) < 500


@given(document=DOCUMENTS)
@settings(max_examples=40, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_document_makes_the_server_fail_and_what_it_takes_can_be_read_back(
    ask: Ask, document: dict[str, object]
) -> None:
    status = ask("POST", "/api/v1/studies", JSON, _written(document))
    assert status in (201, 422)
    if status == 201:
        assert ask("GET", "/api/v1/studies/fuzzed", AUTHORISED, b"") == 200
        assert ask("GET", "/api/v1/studies", AUTHORISED, b"") == 200
        assert ask("DELETE", "/api/v1/studies/fuzzed", AUTHORISED, b"") == 204


def test_every_route_that_reads_a_body_refuses_what_may_not_enter(client: TestClient) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    reading = [(path, method) for path, found in paths.items() for method in found if "requestBody" in found[method]]
    assert ("/api/v1/studies", "post") in reading and ("/api/v1/workers/{worker}/sync", "post") in reading
    for path, method in reading:
        target = path.replace("{worker}", "1").replace("{study}", "small").replace("{number}", "0")
        for body, fault in ((b'{"a": 1, "a": 2}', "is repeated"), (b'{"a": "\\u0000"}', "a NUL character")):
            answer = client.request(method, target, content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["type"]) == (422, "tuner:invalid-input"), target
            assert fault in answer.json()["detail"]
