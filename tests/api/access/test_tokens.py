"""Tokens: created, listed, used, expired, revoked; on both databases."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from study_documents import study_document

from api.access import principals
from api.waits import Waits

SHARED = "the shared token of this test"


def create(client: TestClient, role: str, label: str = "ours", **more: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/tokens", json={"role": role, "label": label, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def bearer(token: dict[str, Any] | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token if isinstance(token, str) else token['token']}"}


def test_the_first_admins_token_closes_an_open_server_and_revoking_it_opens_it_again(client: TestClient) -> None:
    assert client.get("/api/v1/session").json() == {"name": "everybody", "role": "admin", "how": "open"}
    refused = client.post("/api/v1/tokens", json={"role": "viewer", "label": "too early"})
    assert (refused.status_code, refused.json()["type"]) == (409, "tuner:conflict")
    admin = create(client, "admin", "me")
    assert client.get("/api/v1/studies").status_code == 401
    assert client.get("/api/v1/session", headers=bearer(admin)).json()["name"] == "me"
    revoked = client.delete(f"/api/v1/tokens/{admin['id']}", headers=bearer(admin))
    assert revoked.json()["state"] == "revoked"
    assert client.get("/api/v1/studies").status_code == 200


def test_a_secret_is_shown_once_and_is_not_stored(client: TestClient) -> None:
    admin = create(client, "admin", "me")
    secret = admin["token"]
    assert len(secret) >= 43 + len("tuner_")
    listed = client.get("/api/v1/tokens", headers=bearer(admin))
    assert secret not in listed.text
    assert [(item["label"], item["role"], item["state"]) for item in listed.json()["items"]] == [
        ("me", "admin", "valid")
    ]
    with client.app.state.server.database.read() as session:  # type: ignore[attr-defined]
        stored = session.connection().exec_driver_sql("select * from tokens").one()
    assert secret not in map(str, stored)
    # What is stored opens nothing: neither as a token nor as a cookie.
    for value in map(str, stored):
        assert client.get("/api/v1/studies", headers=bearer(value)).status_code == 401
        assert client.get("/api/v1/studies", headers={"Cookie": f"tuner_8700={value}"}).status_code == 401


def test_a_restart_keeps_the_tokens(serve_app: Callable[..., TestClient]) -> None:
    admin = create(serve_app(), "admin")
    client = serve_app()
    assert client.get("/api/v1/studies").status_code == 401
    assert client.get("/api/v1/studies", headers=bearer(admin)).status_code == 200


def test_a_token_ends_when_it_says(client: TestClient) -> None:
    admin = create(client, "admin")
    short = create_as(client, admin, "viewer", expires_days=1.0 / 86400)
    assert client.get("/api/v1/studies", headers=bearer(short)).status_code == 200
    wait_for(lambda: client.get("/api/v1/studies", headers=bearer(short)).status_code == 401)
    states = {
        item["label"]: item["state"] for item in client.get("/api/v1/tokens", headers=bearer(admin)).json()["items"]
    }
    assert states["for a while"] == "expired"


def create_as(client: TestClient, admin: dict[str, Any], role: str, **more: Any) -> dict[str, Any]:
    body = {"role": role, "label": "for a while", **more}
    answer = client.post("/api/v1/tokens", json=body, headers=bearer(admin))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_an_expired_admins_token_does_not_open_the_server(client: TestClient) -> None:
    create(client, "admin", expires_days=1.0 / 86400)
    time.sleep(1.1)
    assert client.get("/api/v1/studies").status_code == 401


def test_the_last_valid_admin_stays_while_an_expired_one_keeps_the_server_closed(client: TestClient) -> None:
    admin = create(client, "admin", "me")
    create_as(client, admin, "admin", expires_days=1.0 / 86400)
    time.sleep(1.1)
    refused = client.delete(f"/api/v1/tokens/{admin['id']}", headers=bearer(admin))
    assert refused.status_code == 409
    assert "last admin" in refused.json()["detail"]
    assert client.get("/api/v1/studies", headers=bearer(admin)).status_code == 200


def test_what_another_server_revoked_ends_here_within_seconds(
    serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "FRESH_S", 0.05)
    client = serve_app(token=SHARED)
    viewer = create_as(client, {"token": SHARED}, "viewer")
    assert client.get("/api/v1/studies", headers=bearer(viewer)).status_code == 200
    with client.app.state.server.database.write() as session:  # type: ignore[attr-defined]
        session.connection().exec_driver_sql("update tokens set revoked_at = created_at")
    wait_for(lambda: client.get("/api/v1/studies", headers=bearer(viewer)).status_code == 401)


def test_a_stream_ends_when_its_token_is_revoked(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=SHARED, waits=Waits(tick_s=0.05, pause=0.0, recheck_s=0.0))
    viewer = create_as(client, {"token": SHARED}, "viewer")
    assert client.post("/api/v1/studies", json=study_document(name="mine"), headers=bearer(SHARED)).status_code == 201
    heard: list[str] = []
    url = "/api/v1/studies/mine/events"
    client.delete(f"/api/v1/tokens/{viewer['id']}", headers=bearer(SHARED))
    assert client.get(url, headers=bearer(viewer)).status_code == 401
    again = create_as(client, {"token": SHARED}, "viewer")
    # The test client reads a response whole, so the token ends while the stream is being opened.
    server = client.app.state.server  # type: ignore[attr-defined]
    still = server.principals.still

    async def revoked(principal: Any) -> bool:
        with server.database.write() as session:
            session.connection().exec_driver_sql("update tokens set revoked_at = created_at")
        server.principals.reload()
        return bool(await still(principal))

    server.principals.still = revoked
    response = client.get(url, headers=bearer(again))
    heard += response.text.splitlines()
    assert response.status_code == 200
    assert not any(line.startswith("data") for line in heard)


def test_a_workers_token_opens_no_page(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=SHARED)
    worker, viewer = (create_as(client, {"token": SHARED}, role) for role in ("worker", "viewer"))
    refused = client.post("/api/v1/login", json={"token": worker["token"]})
    assert (refused.status_code, "worker" in refused.json()["detail"]) == (403, True)
    assert client.post("/api/v1/login", json={"token": viewer["token"]}).status_code == 204
    assert client.get("/api/v1/session").json()["role"] == "viewer"
    assert client.post("/api/v1/studies", json=study_document()).status_code == 403
    client.delete(f"/api/v1/tokens/{viewer['id']}", headers=bearer(SHARED))
    assert client.get("/api/v1/session").status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "root", "label": "x"}, "role"),
        ({"role": "viewer", "label": ""}, "label"),
        ({"role": "viewer", "label": "two\nlines"}, "label"),
        ({"role": "viewer", "label": " blank "}, "label"),
        ({"role": "viewer", "label": "x", "expires_days": 0}, "expires_days"),
        ({"role": "viewer", "label": "x", "expires_days": 1e9}, "expires_days"),
        ({"role": "viewer", "label": "x", "token": "mine"}, "token"),
        ({"label": "x"}, "role"),
    ],
)
def test_bad_tokens_are_refused_by_field(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post("/api/v1/tokens", json=body)
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_no_token_has_an_id_that_another_had(client: TestClient) -> None:
    admin = create(client, "admin")
    assert client.delete("/api/v1/tokens/999", headers=bearer(admin)).status_code == 404


def test_who_did_what_is_written_beside_it(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=SHARED)
    ada = create_as(client, {"token": SHARED}, "submitter")
    client.headers.update(bearer(ada))
    submit(client, name="mine")
    wait_for(lambda: client.get("/api/v1/studies/mine/history?kind=trial.queued").json()["items"])
    client.post("/api/v1/studies/mine/stop", headers=bearer(SHARED))
    happened = client.get("/api/v1/studies/mine/history?limit=1000").json()["items"]
    by = {item["kind"]: item["by"] for item in happened}
    assert by["study.running"] == "for a while"
    assert by["study.stopped"] == "TUNER_TOKEN"
    assert by["trial.queued"] is None  # the conductor's own doing
    ids = [item["id"] for item in happened]
    assert ids == sorted(ids, reverse=True)
    pages = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"/api/v1/studies/mine/history?limit=3{cursor and f'&cursor={cursor}'}").json()
        pages += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert pages == ids
    only = client.get("/api/v1/studies/mine/history?kind=study.stopped").json()["items"]
    assert [item["kind"] for item in only] == ["study.stopped"]
