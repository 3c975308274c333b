"""Event streams: one look at the database for all followers of a study, every change once and in order."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from loops import run_async
from starlette.types import Message
from study_documents import study_document

from api import broadcasts, streams
from api.app import open_database
from api.broadcasts import Broadcasts
from api.growth import Growth
from api.hub import Hub
from api.pools import Pool
from api.settings import Settings
from api.streams import EventStream
from storage import events, studies
from storage.database import Database, DatabaseUnusable
from storage.events import Change


class Scene:
    """A study whose changes a test makes, and a server's broadcasts."""

    def __init__(self, database: Database) -> None:
        self.database, self.hub, self.growth = database, Hub(), Growth()
        self.pool = Pool("stream", 2)
        self.looks = 0
        self.broadcasts = Broadcasts(database, self.hub, self.growth, self.pool)
        with database.write() as session:
            now = database.now(session)
            self.study = studies.create(
                session, name="small", title="", document=study_document(), run_cap=1, parallel=1,
                idempotency_key=None, now=now,
            ).id  # fmt: skip
        read = self.pool.run

        async def counted(*work: Any) -> Any:
            self.looks += 1
            return await read(*work)

        self.pool.run = counted  # type: ignore[method-assign]

    def change(self, count: int = 1) -> None:
        with self.database.write() as session:
            changes = [Change(self.study, "trial.completed", n) for n in range(count)]
            events.append(session, changes=changes, now=self.database.now(session))
        self.hub.ring(self.study)

    def follow(self, after: int = 0) -> AsyncGenerator[str]:
        with self.database.read() as session:
            return self.broadcasts.follow(self.study, studies.place(session, self.study).revision, after)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(broadcasts, "BURST_S", 0.01)
    monkeypatch.setattr(broadcasts, "OUTAGE_S", 0.01)
    database = open_database(Settings(data_dir=tmp_path))
    found = Scene(database)
    yield found
    found.pool.close()
    database.close()


def run(scene: Scene, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        scene.hub.bind(asyncio.get_running_loop())
        async with asyncio.timeout(60):
            await test()
        assert not scene.broadcasts._running, "nothing runs once nobody follows"

    run_async(go())


async def read(follower: AsyncGenerator[str], until: str) -> str:
    """Read until a text comes."""
    seen = ""
    while until not in seen:
        seen += await anext(follower)
    return seen


def ids(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"^id: (\d+)$", text, re.M)]


def test_many_followers_cost_one_look_and_quiet_ones_none(scene: Scene) -> None:
    async def go() -> None:
        followers = [scene.follow() for _ in range(50)]
        assert {await anext(follower) for follower in followers} == {"retry: 2000\n\n"}
        scene.change(3)
        assert [ids(await read(follower, "id: 3\n")) for follower in followers] == [[1, 2, 3]] * 50
        other = [asyncio.create_task(anext(follower)) for follower in followers]
        scene.hub.ring(scene.study + 1)  # news of another study
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert scene.looks <= 2, "one when it begins, one for the ring"
        assert not any(task.done() for task in other)
        scene.growth.note({scene.study: 32})
        scene.hub.tell([scene.study])
        assert {await task for task in other} == {"event: advanced\ndata: {}\n\n"}
        for follower in followers:
            await follower.aclose()

    run(scene, go)


def test_who_comes_late_gets_what_it_missed_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "PART", 7)

    async def go() -> None:
        scene.change(40)
        first = scene.follow(after=40)
        await anext(first)
        scene.change(5)
        await read(first, "id: 45\n")
        late, ahead = scene.follow(after=3), scene.follow(after=44)
        await anext(late)
        scene.change(20)  # while the late one reads what it missed
        assert ids(await read(late, "id: 65\n")) == list(range(4, 66))
        assert ids(await read(ahead, "id: 65\n")) == list(range(45, 66))
        for follower in (first, late, ahead):
            await follower.aclose()

    run(scene, go)


def test_who_does_not_read_is_dropped_and_nobody_waits_for_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "MOST_BEHIND", 3)

    async def go() -> None:
        slow, fast = scene.follow(), scene.follow()
        await anext(slow)
        await anext(fast)
        for revision in range(1, 11):
            scene.change()
            await read(fast, f"id: {revision}\n")
        left = [text async for text in slow]
        assert ids("".join(left)) == [1, 2, 3]
        again = scene.follow(after=3)
        assert ids(await read(again, "id: 10\n")) == list(range(4, 11))
        await fast.aclose()
        await again.aclose()

    run(scene, go)


def test_a_stream_says_why_it_ends(scene: Scene) -> None:
    async def go() -> None:
        follower = scene.follow()
        await anext(follower)
        with scene.database.write() as session:
            studies.delete_study(session, study_id=scene.study)
        scene.hub.ring(scene.study)
        assert [text async for text in follower] == ["event: deleted\ndata: {}\n\n"]

    run(scene, go)


def test_a_stream_ends_with_the_server(scene: Scene) -> None:
    async def go() -> None:
        follower = scene.follow()
        await anext(follower)
        scene.hub.close()
        assert [text async for text in follower] == ["event: closing\ndata: {}\n\n"]
        late = scene.follow()
        assert (await read(late, "closing")).startswith("retry")
        await late.aclose()

    run(scene, go)


def test_a_stream_outlasts_an_outage(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        follower = scene.follow()
        await anext(follower)
        after, tries = events.after, iter(range(10))

        def broken(*given: Any, **named: Any) -> Any:
            if next(tries) < 3:
                raise DatabaseUnusable("away")
            return after(*given, **named)

        monkeypatch.setattr(events, "after", broken)
        scene.change(2)
        assert ids(await read(follower, "id: 2\n")) == [1, 2]
        await follower.aclose()

    run(scene, go)


def test_a_client_that_accepts_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SEND_S", 0.05)
    left = []

    async def texts() -> AsyncGenerator[str]:
        try:
            while True:
                yield "event: change\n\n"
        finally:
            left.append("follower")

    async def go() -> None:
        accepted = 0

        async def send(message: Message) -> None:
            nonlocal accepted
            accepted += 1
            if accepted > 3:
                await asyncio.Event().wait()  # its buffers are full

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async with asyncio.timeout(30):
            await EventStream(texts())({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        assert left == ["follower"]

    run_async(go())
