"""A device process and a worker without processes or threads: the test makes their ticks and their syncs."""

from pathlib import Path

from fastapi.testclient import TestClient

from tuner.wire.sync import Registration, SyncReply, SyncRequest
from tuner.worker.agent.child import DeviceProcess, Listener
from tuner.worker.agent.holdings import Holdings
from tuner.worker.channel import Json
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.device import tell
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given

JSON = {"Content-Type": "application/json"}


class TickedDevice(DeviceProcess):
    """The real runner behind a device's face; `now_s` is the number of ticks made."""

    def __init__(self, width: int, *, width_is_free: bool = False, store: Path | None = None) -> None:
        super().__init__("cpu", width, 1, [])
        self.now_s = 0.0
        self.listen: Listener = lambda device, message: None
        self.checkpoints = None if store is None else Checkpoints(store, every_s=1e9)
        given = Given(None if width_is_free else width, 1)
        self.runner = Runner(lambda message: self.listen(self, message), "cpu", given, self.checkpoints)

    def send(self, message: Json) -> None:
        tell(self.runner, message)

    def tick(self) -> None:
        """Train for one tick, or sleep for one."""
        self.now_s += 1.0
        if self.runner.busy:
            self.runner.step()


class EngineWorker:
    """A worker that trains in this process, talking to an app in this process."""

    def __init__(
        self, client: TestClient, name: str, width: int, *, width_is_free: bool = False, store: Path | None = None
    ) -> None:
        self.client = client
        self.session = f"engine-session-{name}"
        self.device = TickedDevice(width, width_is_free=width_is_free, store=store)
        self.holdings = Holdings([self.device], clock=lambda: self.device.now_s)
        self.device.listen = self.holdings.listen  # type: ignore[assignment]
        hello = {
            "workloads": [{"name": "digits-mlp", "description": ""}],
            "description": "",
            "checkpoints": store is not None,
        }
        self.holdings.listen(self.device, {"hello": hello})
        self.seq = 0
        registration = Registration(
            session=self.session,
            name=name,
            devices=self.holdings.device_infos(),
            workloads=self.holdings.workloads(),
        )
        answer = client.post("/api/v1/workers", json=registration.model_dump(mode="json"))
        self.id = answer.json()["worker"]

    def sync(self) -> SyncReply:
        """Exchange states once."""
        self.seq += 1
        parcel = self.holdings.outbox.parcel()
        request = SyncRequest(
            session=self.session,
            seq=self.seq,
            capacity=self.holdings.capacity(),
            held=self.holdings.held(parcel.finished),
            started=parcel.started,
            restarted=parcel.restarted,
            reports=parcel.reports,
            checkpointed=parcel.checkpointed,
            finished=parcel.finished,
        )
        answer = self.client.post(f"/api/v1/workers/{self.id}/sync", content=request.model_dump_json(), headers=JSON)
        assert answer.status_code == 200, answer.text
        reply = SyncReply.model_validate(answer.json())
        self.holdings.answered(parcel, request, 1.0)
        self.holdings.kept(parcel.checkpointed)
        self.holdings.obey(reply)
        return reply

    def train(self, ticks: int) -> None:
        """Make so many ticks, and one sync."""
        for _ in range(ticks):
            self.device.tick()
        self.sync()
