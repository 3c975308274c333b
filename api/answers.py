"""What is read of studies, as responses: worked out once per version, shared by all readers, with an ETag.

Where a study is (its state and revision) is looked up for every request, so a reader never sees a deleted study. What
follows is taken from what is kept (`kept.py`) if nothing has happened since, and else worked out: short queries in the
pool of reads, what takes all trials in a pool of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.growth import Growth
from api.kept import Kept, Shown, Version
from api.plans import Plan, Plans
from api.pools import Pool, Pools
from api.replies import Reply, reply, respond, wants_exact
from api.results.boards import Boards
from api.results.detail import study_detail
from api.results.reading import Reading, Readings
from storage import studies
from storage.database import Database
from storage.studies import Place, StudyRecord
from tuner.wire.views import StudyDetail

Content = BaseModel | dict[str, Any]
Light = Callable[[Session, StudyRecord, Plan], Content]
"""Makes a response from a few queries."""
Heavy = Callable[[Reading], Content]
"""Makes a response from all trials of a study."""


@dataclass(frozen=True)
class Detail:
    """A study as its rows show it."""

    view: StudyDetail
    bytes: int = 10_000
    """About what it takes."""


class Answers:
    """Methods run on the event loop and raise `NotFound` for a study that does not exist."""

    def __init__(self, database: Database, plans: Plans, growth: Growth, pools: Pools, *, pause: float) -> None:
        """`pause`: see `Kept`."""
        self._database = database
        self._plans = plans
        self._growth = growth
        self._pools = pools
        self._boards = Boards()
        self._readings = Readings(database, plans, self._boards)
        self._replies: Kept[Reply] = Kept(pause=pause)
        self._details: Kept[Detail] = Kept(pause=pause)

    async def light(self, request: Request, study: str, what: str, make: Light, *, grows: bool = True) -> Response:
        """Answer with what takes a few queries. Without `grows` it changes with the revision alone."""
        place = await self.place(study)
        return await self._respond(request, place, what, lambda: self._queried(place, make), self._pools.reads, grows)

    async def heavy(self, request: Request, study: str, what: str, make: Heavy, *, grows: bool = False) -> Response:
        """Answer with what takes all trials of a study."""
        place = await self.place(study)
        read = lambda: self._read(place, make, growing=grows)  # noqa: E731
        return await self._respond(request, place, what, read, self._pools.results, grows)

    async def detail(self, place: Place, *, exact: bool) -> Shown[Detail]:
        """Return a study as its rows show it."""

        def work() -> tuple[Detail, Version]:
            growth = self._grown(place)
            with self._readings.of(place.id, growing=True) as reading:
                return Detail(study_detail(reading)), Version(reading.study.revision, growth)

        version = Version(place.revision, self._grown(place))
        return await self._details.get(
            (place.id, "study"), version, work, self._pools.reads, exact=exact or place.ended
        )

    async def place(self, study: str) -> Place:
        """Find a study."""
        return await self._pools.reads.run(self._place, study)

    def forget(self, study_id: int) -> None:
        """Drop everything of a deleted study."""
        self._replies.forget(study_id)
        self._details.forget(study_id)
        self._boards.forget(study_id)
        self._growth.forget(study_id)

    async def _respond(
        self,
        request: Request,
        place: Place,
        what: str,
        make: Callable[[], tuple[Content, int]],
        pool: Pool,
        grows: bool,
    ) -> Response:
        def work() -> tuple[Reply, Version]:
            growth = self._grown(place) if grows else 0  # before the transaction that reads what has grown
            content, revision = make()
            return reply(content), Version(revision, growth)

        version = Version(place.revision, self._grown(place) if grows else 0)
        exact = place.ended or wants_exact(request)
        shown = await self._replies.get((place.id, what), version, work, pool, exact=exact)
        return respond(request, shown.value, shown.behind_s)

    def _queried(self, place: Place, make: Light) -> tuple[Content, int]:
        with self._database.read() as session:
            study = studies.get(session, place.id)
            return make(session, study, self._plans.of(study)), study.revision

    def _read(self, place: Place, make: Heavy, *, growing: bool) -> tuple[Content, int]:
        with self._readings.of(place.id, growing=growing) as reading:
            return make(reading), reading.study.revision

    def _place(self, study: str) -> Place:
        with self._database.read() as session:
            return studies.place(session, study)

    def _grown(self, place: Place) -> int:
        return self._growth.count(place.id, live=not place.ended)
