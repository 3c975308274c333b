"""A study at this moment: what its rows show, and what only the moment knows.

The rate, what it waits for (which depends on workers and on the clock) and this server's trouble with it change without
the study's revision, so they are never kept.
"""

from collections.abc import Sequence

from fastapi import Request, Response

from api.notices import notice, waits_for
from api.replies import reply, respond, wants_exact
from api.results.spending import spending
from api.state import Server
from storage import studies
from storage.studies import Place, Progress
from tuner.errors import NotFound
from tuner.study.states import StudyState, TrialState
from tuner.wire.views import BudgetView, FailureGroup, Page, StudyDetail, StudyView


async def study(server: Server, request: Request, key: str, status: int = 200) -> Response:
    """Answer with one study. `status` says what a command did; then nobody has the answer yet."""
    place = await server.answers.place(key)
    shown = await server.answers.detail(place, exact=wants_exact(request))
    view = await _at_this_moment(server, shown.value.view, shown.value.view.failures)
    # Time goes by without any news: nobody fetches a study again for that.
    whole = view.model_copy(update={"budgets": await server.pools.reads.run(_budgets, server, view)})
    answer = respond(request, reply(whole, tag_of=view), shown.behind_s)
    answer.status_code = status if status != 200 else answer.status_code
    return answer


async def listed(server: Server, request: Request, places: Sequence[Place], next_cursor: str | None) -> Response:
    """Answer with a page of studies, of which no failures are shown."""
    items = []
    for place in places:
        try:
            shown = await server.answers.detail(place, exact=wants_exact(request))
            items.append(await _at_this_moment(server, shown.value.view, []))
        except NotFound:  # deleted since the list was read
            continue
    return respond(request, reply(Page[StudyView](items=items, next_cursor=next_cursor)))


async def _at_this_moment(server: Server, view: StudyDetail, groups: list[FailureGroup]) -> StudyDetail:
    progress = Progress({str(state): count for state, count in view.counts.items()}, view.examples_done)
    waiting = await server.pools.reads.run(_waits_for, server, view.id, progress) if _is_stuck(view) else None
    said = {
        "waits_for": waiting,
        "notice": notice(waiting, groups, progress, server.conductor.trouble(view.id)),
        "examples_per_second": server.growth.rate(view.id) if view.state is StudyState.RUNNING else None,
    }
    return view.model_copy(update=said)


def _budgets(server: Server, view: StudyDetail) -> list[BudgetView]:
    with server.database.read() as session:
        record = studies.get(session, view.id)
        budget, now = server.plans.of(record).spec.budget, server.database.now(session)
        return spending(session, record, budget, view.counts, now)


def _is_stuck(view: StudyDetail) -> bool:
    """Whether a running study has trials to run, and none is running: only then it may wait for something."""
    queued, running = view.counts.get(TrialState.QUEUED, 0), view.counts.get(TrialState.RUNNING, 0)
    return view.state is StudyState.RUNNING and queued > 0 and running == 0


def _waits_for(server: Server, study_id: int, progress: Progress) -> str | None:
    with server.database.read() as session:
        record = studies.get(session, study_id)
        now = server.database.now(session)
        return waits_for(session, record, progress, now=now, lease_s=server.settings.lease_s)
