"""Behind a proxy: one that logs people in, and one that serves us below a path."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from study_documents import study_document

from api.settings import Settings


@pytest.fixture
def database_url() -> None:
    """SQLite alone: this is decided before a database is asked."""


@pytest.fixture
def behind(serve_app: Callable[..., TestClient]) -> Callable[..., TestClient]:
    """Start the app as a proxy at an address sees it."""

    def start(address: str = "10.1.2.3", **settings: Any) -> TestClient:
        client = serve_app(trusted_proxies=["10.1.0.0/16"], **settings)
        client._transport.client = (address, 50000)  # type: ignore[attr-defined]
        return client

    return start


def who(client: TestClient, **headers: str) -> Any:
    answer = client.get("/api/v1/session", headers=headers)
    if not answer.is_success:
        return answer.status_code
    return answer.json()["name"], answer.json()["role"], answer.json()["how"]


def test_a_trusted_proxy_names_people(behind: Callable[..., TestClient]) -> None:
    client = behind(proxy_admins=["ada"])
    assert who(client, **{"X-Forwarded-User": "bob"}) == ("bob", "submitter", "proxy")
    assert who(client, **{"X-Forwarded-User": "ada"}) == ("ada", "admin", "proxy")
    assert who(client) == 401
    assert who(client, **{"X-Forwarded-User": "x" * 201}) == 401


def test_from_elsewhere_its_headers_mean_nothing(behind: Callable[..., TestClient]) -> None:
    client = behind("10.2.0.1", proxy_admins=["ada"])
    assert who(client, **{"X-Forwarded-User": "ada"}) == 401
    assert who(client, **{"X-Forwarded-User": "ada", "X-Forwarded-For": "10.1.2.3"}) == 401


def test_header_and_role_can_be_chosen(behind: Callable[..., TestClient]) -> None:
    client = behind(proxy_user_header="X-Auth-Email", proxy_role="viewer")
    assert who(client, **{"X-Auth-Email": "bob@example.org"}) == ("bob@example.org", "viewer", "proxy")
    assert client.post("/api/v1/studies", json=study_document(), headers={"X-Auth-Email": "bob"}).status_code == 403


def test_a_token_counts_behind_a_proxy_too_and_leaves_authorization_to_it(behind: Callable[..., TestClient]) -> None:
    ours, foreign = "the shared token of this test", {"Authorization": "Bearer a.proxys.own"}
    client = behind(token=ours)
    assert who(client, Authorization=f"Bearer {ours}")[2] == "shared"
    assert who(client, **foreign, **{"Tuner-Token": ours})[2] == "shared"
    assert who(client, **foreign, **{"X-Forwarded-User": "bob"})[2] == "proxy"


def test_who_acts_behind_a_proxy_is_written_down(behind: Callable[..., TestClient]) -> None:
    client = behind()
    bob = {"X-Forwarded-User": "bob"}
    assert client.post("/api/v1/studies", json=study_document(name="mine"), headers=bob).status_code == 201
    happened = client.get("/api/v1/studies/mine/history?kind=study.running", headers=bob).json()["items"]
    assert [item["by"] for item in happened] == ["bob"]


def test_the_login_cookie_is_secure_when_the_proxy_says_https(behind: Callable[..., TestClient]) -> None:
    token = "the shared token of this test"
    client = behind(token=token)
    told = client.post("/api/v1/login", json={"token": token}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in told.headers["set-cookie"]
    assert "Secure" not in client.post("/api/v1/login", json={"token": token}).headers["set-cookie"]


def test_a_proxy_opens_the_server_to_other_machines_but_not_to_everybody() -> None:
    Settings(host="0.0.0.0", trusted_proxies=["10.0.0.1"]).check(guarded=True)
    with pytest.raises(ValueError, match=r"'10.0.0.0/33' given; allowed are addresses such as 10.0.0.7"):
        Settings(trusted_proxies=["10.0.0.0/33"])


@pytest.mark.parametrize("stripped", [True, False])
def test_below_a_path(serve_app: Callable[..., TestClient], stripped: bool) -> None:
    """Whether the proxy strips its path or not, every address that the page asks for has it."""
    token = "the shared token of this test"
    client = serve_app(root_path="/lab/tuner", token=token)
    before = "" if stripped else "/lab/tuner"
    page = client.get(f"{before}/studies/mine")
    assert page.status_code == 200
    assert '<script type="module" src="/lab/tuner/static/js/main.js">' in page.text
    assert 'content="/lab/tuner"' in page.text
    assert 'href="/static' not in page.text
    assert client.get(f"{before}/static/js/main.js").status_code == 200
    assert client.get(f"{before}/api/v1/studies").status_code == 401
    cookie = client.post(f"{before}/api/v1/login", json={"token": token}).headers["set-cookie"]
    assert "Path=/lab/tuner;" in cookie
    assert client.get("/lab/tuner/api/v1/studies").status_code == 200
    assert client.get("/lab/tunerx/api/v1/studies").status_code == 404


@pytest.mark.parametrize("root", ["lab", "/lab/", "/a b", '/"><script>', "/"])
def test_a_path_is_one(root: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        Settings(root_path=root)
