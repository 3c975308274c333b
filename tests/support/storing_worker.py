"""A worker by hand that sees the checkpoint store."""

from typing import Any

from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient

from tuner.store import Store, path_of

TOKEN = "0123abcd"


class StoringWorker(FakeWorker):
    """A worker that sees the checkpoint store, and writes what the test tells it to."""

    def __init__(self, client: TestClient, session: str = "storing-session-1", stores: bool = True) -> None:
        self.stores = stores
        super().__init__(client, session)
        self.store: Store = client.app.state.server.store  # type: ignore[attr-defined]

    def register(self) -> None:
        device = {"device": "cpu", "width": self.width, "checkpoints": self.stores}
        body = {"session": self.session, "name": "fake", "devices": [device], "workloads": [{"name": "digits-mlp"}]}
        self.id = self.client.post("/api/v1/workers", json=body).json()["worker"]

    def write(self, held: dict[str, Any], step: int, kind: Any = "state", **changes: Any) -> dict[str, Any]:
        """Write a file and describe it as `checkpointed` does."""
        path = path_of(held["study"], held["number"], held["attempt"], step, TOKEN, kind)
        stored = self.store.write(path, f"{path} of {kind}".encode())
        word = {"path": path, "digest": stored.digest, "bytes": stored.bytes}
        if kind == "state":
            word |= {"trial": held["trial"], "attempt": held["attempt"], "step": step}
        return {**word, **changes}

    def checkpoint(self, held: dict[str, Any], step: int) -> dict[str, Any]:
        word = self.write(held, step)
        self.sync(free=0, reports=[report(held, step, valid_loss=1.0 / step)], checkpointed=[word])
        return word

    def hand_back(self, held: dict[str, Any], outcome: str = "drained") -> None:
        self.held.pop((held["trial"], held["attempt"]))
        word = {"trial": held["trial"], "attempt": held["attempt"], "token": held["token"], "outcome": outcome}
        self.sync(free=0, finished=[word])

    def retake(self, trial: int) -> dict[str, Any]:
        """Take trials until this one is among them."""
        self.take(len(self.held) + 1)
        return next(held for (number, _), held in self.held.items() if number == trial)
