"""Whoever takes a study over gives the workers of the dead server one more lease to be heard."""

import time
from collections.abc import Callable

from fake_worker import FakeWorker
from several_servers import Served, eventually
from study_documents import study_document

from api.waits import Waits
from storage import attempts

LEASE_S = 1.0


def test_leases_that_ran_out_meanwhile_end_one_lease_after_the_takeover(serve: Callable[..., Served]) -> None:
    first = serve(lease_s=LEASE_S, waits=Waits(tick_s=3600.0))  # as good as dead: it expires nothing
    second = serve(lease_s=LEASE_S)
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share")
    study, worker = driven_by(first), FakeWorker(second.client)
    worker.take(1)

    def expired() -> int:
        """Count the leases that ran out and have not ended."""
        with second.server.database.read() as session:
            now = second.server.database.now(session)
            return len(attempts.leases(session, study_ids=[study], expired_at=now))

    eventually(expired, "the lease to run out")
    began = second.shards._seen_at
    eventually(lambda: second.shards._seen_at > began + LEASE_S, "the other one to be up for a lease")
    assert expired() == 1, "its study is not the other one's"
    begun = time.monotonic()
    first.close()
    eventually(lambda: not expired(), "the lease to end")
    assert LEASE_S <= time.monotonic() - begun < 10


def driven_by(served: Served) -> int:
    """Submit studies until this server drives one, and delete the others."""
    number = 0
    while True:
        document = study_document(name=f"study-{number}", run_cap=1, parallel=1)
        study: int = served.client.post("/api/v1/studies", json=document).json()["id"]
        with served.shards.acting([study]) as mine:
            if mine:
                return study
        served.client.delete(f"/api/v1/studies/{study}")
        number += 1
