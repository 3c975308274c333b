"""What a study's view says of its training: examples per second, and which programs run its trials."""

from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api.growth import Growth
from tuner.study.program import fingerprint

COMPILED = {"path": "compiled", "width": 64, "threads": 1, "device": "cpu"}
EAGER = {"path": "eager", "width": 8, "threads": 2}
AT = "/api/v1/studies/small"


def test_a_running_study_shows_its_rate_and_its_programs(client: TestClient) -> None:
    now = 100.0
    client.app.state.server.growth.__init__(lambda: now)  # type: ignore[attr-defined]
    assert isinstance(client.app.state.server.growth, Growth)  # type: ignore[attr-defined]
    client.post("/api/v1/studies", json=study_document())
    worker = FakeWorker(client)
    held = worker.take(4)
    found = client.get(AT).json()
    assert (found["examples_per_second"], found["running_programs"]) == (None, [])

    words = [
        {"trial": one["trial"], "attempt": one["attempt"], "program": program}
        for one, program in zip(held, [COMPILED, COMPILED, EAGER, COMPILED], strict=True)
    ]
    worker.sync(free=0, started=words)
    for step in range(1, 11):
        now += 2.0
        worker.sync(free=0, reports=[report(one, step, valid_loss=1.0) for one in held])
    found = client.get(AT).json()
    assert found["examples_per_second"] == 4 * 16 / 2.0
    assert found["running_programs"] == [
        {"fingerprint": fingerprint(COMPILED), "words": "compiled, width 64, 1 thread", "trials": 3, "devices": 1},
        {"fingerprint": fingerprint(EAGER), "words": "eager, width 8, 2 threads", "trials": 1, "devices": 1},
    ]
    listed = client.get("/api/v1/studies").json()["items"][0]
    assert (listed["examples_per_second"], listed["running_programs"]) == (32.0, found["running_programs"])

    for one in held:
        worker.finish(one)
    while client.get(AT).json()["state"] != "completed":
        pass
    found = client.get(AT).json()
    assert (found["examples_per_second"], found["running_programs"]) == (None, [])
