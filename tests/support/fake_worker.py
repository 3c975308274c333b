"""A worker that speaks the sync protocol by hand, and can repeat, lose and reorder what it says."""

from typing import Any

from fastapi.testclient import TestClient

from tuner.wire.sync import SyncReply


class FakeWorker:
    """One device `cpu`; holds what it was assigned until it finishes or is told to stop."""

    names: tuple[str, ...] = ("cpu",)
    workload = "digits-mlp"

    def __init__(self, client: TestClient, session: str = "fake-session-0001", width: int = 4) -> None:
        self.client = client
        self.session = session
        self.width = width
        self.seq = 0
        self.held: dict[tuple[int, int], dict[str, Any]] = {}
        self.id = 0
        self.register()

    def register(self) -> None:
        answer = self.client.post(
            "/api/v1/workers",
            json={
                "session": self.session,
                "name": "fake",
                "devices": [{"device": name, "width": self.width} for name in self.names],
                "workloads": [{"name": self.workload}],
            },
        )
        assert answer.status_code == 200, answer.text
        self.id = answer.json()["worker"]

    def body(self, *, free: int | None = None, **more: Any) -> dict[str, Any]:
        stack = next(iter(self.held.values()))["stack"] if self.held else None
        free = self.width - len(self.held) if free is None else free
        return {
            "session": self.session,
            "seq": self.seq,
            "capacity": [{"device": "cpu", "stack": stack, "free": free}],
            "held": [{"trial": t, "attempt": a, "token": held["token"]} for (t, a), held in self.held.items()],
            **more,
        }

    def post(self, body: dict[str, Any]) -> SyncReply:
        answer = self.client.post(f"/api/v1/workers/{self.id}/sync", json=body)
        assert answer.status_code == 200, answer.text
        return SyncReply.model_validate(answer.json())

    def sync(self, **more: Any) -> SyncReply:
        """Sync, and obey the reply."""
        self.seq += 1
        reply = self.post(self.body(**more))
        for assignment in reply.assign:
            self.held[assignment.trial, assignment.attempt] = assignment.model_dump()
        for stop in reply.stop:
            self.held.pop((stop.trial, stop.attempt), None)
        return reply

    def take(self, count: int, wait_s: float = 10.0) -> list[dict[str, Any]]:
        """Sync until it holds `count` trials."""
        for _ in range(50):
            if len(self.held) >= count:
                break
            self.sync(free=count - len(self.held), wait_s=wait_s)
        assert len(self.held) >= count
        return list(self.held.values())

    def finish(self, assignment: dict[str, Any], value: float | None = 0.5, **more: Any) -> SyncReply:
        """Finish one trial."""
        key = assignment["trial"], assignment["attempt"]
        self.held.pop(key)
        word = {"trial": key[0], "attempt": key[1], "token": assignment["token"], "outcome": "finished"}
        word |= {"value": value, "step": 1, "examples": 16}
        return self.sync(free=0, finished=[{**word, **more}])


def report(assignment: dict[str, Any], step: int, **metrics: Any) -> dict[str, Any]:
    """Write a report row."""
    return {
        "trial": assignment["trial"],
        "attempt": assignment["attempt"],
        "step": step,
        "examples": step * 16,
        "elapsed_s": 0.1,
        "metrics": metrics,
    }
