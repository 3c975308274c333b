"""What is kept: one computation per version whoever asks, bounded, behind only where it is dear and for a while."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from loops import run_async

from api import kept
from api.kept import LONGEST_PAUSE_S, Kept, Made, Version
from api.pools import Pool

KEY = (1, "figure")


@dataclass(frozen=True)
class Text:
    text: str
    bytes: int = 10


class Study:
    """A study that goes on, and work that says what it saw and what it cost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.revision, self.growth, self.cost_s, self.calls = 0.0, 1, 0, 0.0, 0
        self.may_end = threading.Event()
        self.may_end.set()
        self.begun = threading.Event()
        monkeypatch.setattr(kept, "_timed", self._timed)

    def _timed(self, work: Any) -> Made[Text]:
        value, version = work()
        return Made(value, version, self.cost_s)

    def work(self) -> tuple[Text, Version]:
        seen = Version(self.revision, self.growth)
        self.calls += 1
        self.begun.set()
        assert self.may_end.wait(20)
        return Text(f"{seen.revision}.{seen.growth}"), seen


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(monkeypatch)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("test", 4)
    yield made
    made.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    run_async(asyncio.wait_for(test, 20))


def test_many_readers_of_one_version_cost_one_computation(study: Study, pool: Pool) -> None:
    async def go() -> None:
        values: Kept[Text] = Kept(clock=lambda: study.now)
        ask = lambda: values.get(KEY, Version(study.revision), study.work, pool, exact=True)  # noqa: E731
        study.may_end.clear()
        readers = [asyncio.create_task(ask()) for _ in range(20)]
        await asyncio.sleep(0)
        readers[0].cancel()  # the one that began it has gone away
        study.may_end.set()
        found = await asyncio.gather(*readers[1:])
        assert {shown.value.text for shown in found} == {"1.0"} and study.calls == 1
        await ask()
        assert study.calls == 1
        study.revision += 1
        assert (await ask()).value.text == "2.0" and study.calls == 2
        assert (await values.get(KEY, Version(1), study.work, pool, exact=True)).value.text == "2.0"
        assert study.calls == 2, "what is newer than asked for is right as well"

    run(go())


def test_who_needs_a_newer_one_waits_for_it(study: Study, pool: Pool) -> None:
    async def go() -> None:
        values: Kept[Text] = Kept(clock=lambda: study.now)
        study.may_end.clear()
        first = asyncio.create_task(values.get(KEY, Version(1), study.work, pool, exact=True))
        await asyncio.to_thread(study.begun.wait, 20)
        study.revision = 2  # while the first is under way
        later = [asyncio.create_task(values.get(KEY, Version(2), study.work, pool, exact=True)) for _ in range(5)]
        await asyncio.sleep(0)
        study.may_end.set()
        assert (await first).value.text == "1.0"
        assert {shown.value.text for shown in await asyncio.gather(*later)} == {"2.0"} and study.calls == 2

    run(go())


def test_a_dear_value_is_behind_for_a_while_and_says_so(study: Study, pool: Pool) -> None:
    async def go() -> None:
        values: Kept[Text] = Kept(pause=20.0, clock=lambda: study.now)

        async def ask(exact: bool = False) -> tuple[str, float]:
            version = Version(study.revision, study.growth)
            shown = await values.get(KEY, version, study.work, pool, exact=exact)
            return shown.value.text, shown.behind_s

        study.cost_s = 0.1
        assert await ask() == ("1.0", 0.0)
        study.revision, study.now = 2, 0.5
        assert await ask() == ("1.0", 1.5)
        assert await ask(exact=True) == ("2.0", 0.0), "e.g. the study has ended"
        study.growth = 1
        assert await ask() == ("2.0", 2.0)
        study.now = 2.6
        assert await ask() == ("2.1", 0.0)
        study.cost_s, study.now, study.revision = 60.0, 10.0, 3
        await ask()
        study.revision = 4
        assert await ask() == ("3.1", LONGEST_PAUSE_S)
        study.now += LONGEST_PAUSE_S
        study.cost_s = 0.001
        assert await ask() == ("4.1", 0.0)
        study.revision = 5
        assert await ask() == ("5.1", 0.0), "what is cheap is never behind"

    run(go())


def test_what_is_kept_is_bounded_and_dropped_with_its_study(study: Study, pool: Pool) -> None:
    async def go() -> None:
        values: Kept[Text] = Kept(most_bytes=45, clock=lambda: study.now)
        for place in range(100):
            await values.get((place % 50, "x"), Version(1), study.work, pool, exact=True)
        assert len(values._entries) == 4 and values._bytes == 40
        assert study.calls == 100
        await values.get((49, "x"), Version(1), study.work, pool, exact=True)
        assert study.calls == 100, "the latest are kept"
        for study_id in (46, 47, 48, 49):
            values.forget(study_id)
        assert not values._entries and values._bytes == 0

    run(go())


def test_a_failure_is_told_to_every_reader_and_not_kept(study: Study, pool: Pool) -> None:
    async def go() -> None:
        values: Kept[Text] = Kept(clock=lambda: study.now)

        def broken() -> tuple[Text, Version]:
            raise LookupError("gone")

        asks = [values.get(KEY, Version(1), broken, pool, exact=True) for _ in range(3)]
        assert all(isinstance(e, LookupError) for e in await asyncio.gather(*asks, return_exceptions=True))
        assert (await values.get(KEY, Version(1), study.work, pool, exact=True)).value.text == "1.0"

    run(go())
