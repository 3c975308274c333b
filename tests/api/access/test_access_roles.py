"""Who may use which route: every route of the app is tried by every role, and by nobody."""

import re
from collections.abc import Callable, Iterator

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from over_http import submit

from api.access.needs import NEEDS, PUBLIC, needed
from api.requests import CheckedRoute
from api.routes import asking, catalogue, dashboard, events, metrics, results, session, studies, tokens, trials, workers
from tuner.wire.access import Role

ADMIN = "the shared token of this test"
ROUTERS = (asking, catalogue, events, metrics, results, session, studies, tokens, trials, workers)
ROUTES = [route for module in ROUTERS for route in module.router.routes if isinstance(route, APIRoute)]
UNPREFIXED = ("/healthz", "/readyz", "/metrics", "/api/")
VALUES = {"study": "mine", "number": "0", "name": "progress", "worker": "999", "token": "999"}


def address(path: str) -> str:
    whole = path if path.startswith(UNPREFIXED) else f"/api/v1{path}"
    return re.sub(r"{(\w+)}", lambda match: VALUES[match[1]], whole)


def rows() -> Iterator[tuple[str, str]]:
    for route in ROUTES:
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path


@pytest.fixture
def database_url() -> None:
    """SQLite alone: this is decided before a database is asked."""


@pytest.fixture
def shared(serve_app: Callable[..., TestClient]) -> TestClient:
    client = serve_app(token=ADMIN)
    client.headers["Authorization"] = f"Bearer {ADMIN}"
    return client


def token_of(client: TestClient, role: Role) -> str:
    answer = client.post("/api/v1/tokens", json={"role": role, "label": f"the {role}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert {f"{method} {path}" for method, path in rows()} == set(NEEDS)
    assert all(isinstance(route, CheckedRoute) for route in ROUTES)


def test_a_route_without_a_row_cannot_be_built() -> None:
    with pytest.raises(KeyError):
        needed(["GET"], "/studies/{study}/unheard-of")


def test_the_dashboards_own_routes_tell_nothing() -> None:
    served = {route.path for route in dashboard.router.routes if isinstance(route, APIRoute)}
    assert {path for path in served if not path.startswith("/static/")} == {"/", "/studies/{rest:path}", "/workers"}


def test_every_role_on_every_route(shared: TestClient) -> None:
    """What a role may not do is refused with 403, whatever the request says; everything else gets further."""
    submit(shared, name="mine")
    secrets = {role: token_of(shared, role) for role in Role}
    streams = {"GET /studies/{study}/events"}  # it would never end
    for method, path in rows():
        roles = NEEDS[f"{method} {path}"]
        if roles is not PUBLIC:
            answer = shared.request(method, address(path), headers={"Authorization": ""})
            assert (answer.status_code, answer.json()["type"]) == (401, "tuner:not-allowed"), path
        for role in Role:
            if roles is PUBLIC or f"{method} {path}" in streams or (role in roles and method == "DELETE"):
                continue
            answer = shared.request(method, address(path), headers={"Authorization": f"Bearer {secrets[role]}"})
            assert (answer.status_code == 403) == (role not in roles), (method, path, role, answer.text)
            assert answer.status_code != 401
            if answer.status_code == 403:
                assert answer.json()["detail"].startswith(f"the {role} is a"), answer.text


def test_what_the_roles_are_for() -> None:
    """The table's meaning, said another way than the table does."""
    for row, roles in NEEDS.items():
        method, path = row.split()
        if roles is PUBLIC:
            assert path in ("/healthz", "/readyz", "/api/v1/login", "/api/v1/logout")
            continue
        assert Role.ADMIN in roles
        if Role.VIEWER in roles:
            assert method == "GET"
            assert Role.SUBMITTER in roles
        if Role.WORKER in roles:
            assert path.startswith("/workers") or path == "/api/v1/session"
        if "tokens" in path:
            assert roles == {Role.ADMIN}


def test_a_submitter_opens_no_worker_and_a_worker_reads_no_study(shared: TestClient) -> None:
    submit(shared, name="mine")
    registration = {"session": "s" * 32, "name": "w", "devices": [{"device": "cpu"}], "workloads": []}
    as_role = {role: {"Authorization": f"Bearer {token_of(shared, role)}"} for role in Role}
    opened = shared.post("/api/v1/workers", json=registration, headers=as_role[Role.WORKER])
    assert opened.status_code == 200
    assert shared.post("/api/v1/workers", json=registration, headers=as_role[Role.SUBMITTER]).status_code == 403
    assert shared.get("/api/v1/studies/mine", headers=as_role[Role.WORKER]).status_code == 403
    # A worker's session is bound to it by its secret: with another one nothing can be said for that worker.
    said = {"session": "t" * 32, "seq": 1}
    worker = opened.json()["worker"]
    assert shared.post(f"/api/v1/workers/{worker}/sync", json=said, headers=as_role[Role.WORKER]).status_code == 404
    said["session"] = "s" * 32
    assert shared.post(f"/api/v1/workers/{worker}/sync", json=said, headers=as_role[Role.WORKER]).status_code == 200
