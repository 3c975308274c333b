"""Whatever the API's description allows as a request, the server answers it as described, with a token or without."""

from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr
from schemathesis import Case
from schemathesis.core import NOT_SET
from study_documents import study_document

from api.app import create_app, open_database
from api.settings import Settings

STREAMS = "/api/v1/studies/{study}/events"


PUBLIC = ("/healthz", "/readyz", "/api/v1/login", "/api/v1/logout")
TOKEN = "the shared token of this test"


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One app with one study for all operations; a closed one asks for a token, which nobody gives."""
    token = SecretStr(TOKEN) if request.param == "closed" else None
    found = Settings(data_dir=tmp_path_factory.mktemp("schema"), token=token)
    app = create_app(found, open_database(found))
    with TestClient(app, base_url="http://127.0.0.1:8700", raise_server_exceptions=False) as client:
        own = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/api/v1/studies", json=study_document(name="small"), headers=own).status_code == 201
        yield client


def fits(app: FastAPI, schema: Any, value: Any) -> bool:
    """Whether a value has a schema of the API's description."""
    whole = {**schema, "components": app.openapi()["components"]}
    return bool(jsonschema_rs.is_valid(whole, value))


def check(app: FastAPI, described: dict[str, Any], answer: httpx2.Response, told: object) -> None:
    """Check that an error is a problem document, and that every other reply is as it is described."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert answer.status_code < 500, (told, answer.text)
    if answer.status_code >= 400:
        problem = answer.json()
        assert kind == "application/problem+json", told
        assert problem["status"] == answer.status_code and problem["detail"] and problem["type"], told
        return
    assert str(answer.status_code) in described, (told, answer.status_code)
    schema = described[str(answer.status_code)].get("content", {}).get("application/json", {}).get("schema")
    if schema and kind == "application/json":
        assert fits(app, schema, answer.json()), (told, answer.text)


@pytest.mark.parametrize("served", ["open"], indirect=True)
def test_what_is_not_as_described_would_be_found(served: TestClient) -> None:
    app = served.app
    assert isinstance(app, FastAPI)
    study = served.get("/api/v1/studies/small").json()
    schema = {"$ref": "#/components/schemas/StudyDetail"}
    assert fits(app, schema, study)
    assert not fits(app, schema, {**study, "state": "asleep"})
    assert not fits(app, schema, {**study, "surprise": 1})


@pytest.mark.parametrize("served", ["open", "closed"], indirect=True)
def test_no_request_makes_the_server_fail(served: TestClient) -> None:
    app = served.app
    assert isinstance(app, FastAPI)
    tried = 0
    for result in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        operation = result.ok()
        if operation.path == STREAMS:
            continue

        @given(case=operation.as_strategy())
        @settings(max_examples=8, database=None, suppress_health_check=list(HealthCheck))
        def ask(case: Case) -> None:
            body = {} if case.body is NOT_SET else {"json": case.body}
            path = case.formatted_path.replace("/studies/0", "/studies/small")
            headers = {k: v for k, v in dict(case.headers or {}).items() if v.isascii() and v.isprintable()}
            answer = served.request(case.method, path, params=dict(case.query or {}), headers=headers, **body)
            described = case.operation.definition.raw["responses"]
            check(app, described, answer, (case.method, path, case.query, body))
            if served.app.state.server.settings.token is not None and path not in PUBLIC:
                assert answer.status_code in (401, 404, 405), (case.method, path, answer.text)

        ask()
        tried += 1
    assert tried >= 20
