"""Whatever the API's own description allows as a request, the server answers it without failing."""

from collections.abc import Iterator

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.core import NOT_SET
from study_documents import study_document

from api.app import create_app, open_database
from api.settings import Settings

STREAMS = "/api/v1/studies/{study}/events"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One app with one study for all operations."""
    found = Settings(data_dir=tmp_path_factory.mktemp("schema"))
    app = create_app(found, open_database(found))
    with TestClient(app, base_url="http://127.0.0.1:8700", raise_server_exceptions=False) as client:
        assert client.post("/api/v1/studies", json=study_document(name="small")).status_code == 201
        yield client


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
            assert answer.status_code < 500, (case.method, path, case.query, body, answer.text)

        ask()
        tried += 1
    assert tried >= 20
