"""Who may ask what: foreign hosts and pages, tokens, body sizes, headers."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from study_documents import study_document

from api.settings import Settings, check_environment
from tuner.errors import InvalidInput

TOKEN = "correct horse battery staple"


@pytest.fixture
def database_url() -> None:
    """SQLite alone: all this is decided before a database is asked."""


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "tuner.local:8700"])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/studies", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8700", "127.0.0.1", "[::1]:8700"])
def test_names_of_this_machine_are_ours(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/studies", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_cannot_change_anything(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/api/v1/studies", json=study_document(), headers=headers)
    assert answer.status_code == 403
    assert client.get("/api/v1/studies").json()["items"] == []


def test_our_own_page_can(client: TestClient) -> None:
    headers = {"Origin": "http://127.0.0.1:8700", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/v1/studies", json=study_document(), headers=headers).status_code == 201


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/", "/api/v1/studies", "/api/v1/none", "/static/js/main.js"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe-eval" not in policy


def test_a_token_guards_the_api_but_not_the_login_page(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=TOKEN)
    assert client.get("/").status_code == 200
    assert client.get("/healthz").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        answer = client.get("/api/v1/studies", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (401, "tuner:not-allowed")
    assert client.get("/api/v1/studies", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_logging_in_gives_a_cookie_that_does_not_hold_the_token(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=TOKEN)
    assert client.post("/api/v1/login", json={"token": "wrong"}).status_code == 401
    answer = client.post("/api/v1/login", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert cookie.startswith("tuner_8700=")
    assert client.get("/api/v1/studies").status_code == 200
    client.post("/api/v1/logout")
    assert client.get("/api/v1/studies").status_code == 401


def test_a_large_body_is_refused(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(max_body_bytes=2000)
    answer = client.post("/api/v1/studies", json=study_document(title="x" * 3000))
    assert (answer.status_code, answer.json()["type"]) == (413, "tuner:too-large")

    def chunks() -> object:
        for _ in range(10):
            yield b"x" * 1000

    sent = client.post("/api/v1/studies", content=chunks(), headers={"content-type": "application/json"})  # type: ignore[arg-type]
    assert sent.status_code in (400, 413, 422)
    assert client.get("/api/v1/studies").json()["items"] == []


def test_off_loopback_a_token_is_required() -> None:
    with pytest.raises(InvalidInput, match="TUNER_TOKEN"):
        Settings(host="0.0.0.0").check(guarded=False)
    Settings(host="0.0.0.0", token=TOKEN).check(guarded=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16 characters"):
        Settings(token="short")  # type: ignore[arg-type]


def test_a_mistyped_variable_is_refused() -> None:
    with pytest.raises(InvalidInput, match="TUNER_PROT: unknown environment variable; did you mean TUNER_PORT"):
        check_environment({"TUNER_PROT": "1", "PATH": ""})
    check_environment({"TUNER_PORT": "1", "TUNER_SERVER": "http://x"})
