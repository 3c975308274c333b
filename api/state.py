"""The objects that the routes use, created once per app."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from api.access.principals import Principals
from api.answers import Answers
from api.broadcasts import Broadcasts
from api.conductor.asker import Asker
from api.conductor.commands import Commands
from api.conductor.conductor import Conductor
from api.conductor.proposing import Proposing
from api.conductor.retention import Kept, Retention
from api.conductor.tasks import Task
from api.growth import Growth
from api.hub import Hub, Waiting
from api.metrics import Metrics
from api.news import Outbox
from api.plans import Plans
from api.pools import Pools
from api.servers.link import Link
from api.servers.ownership import Alone, Ownership
from api.servers.shards import Shards
from api.settings import Settings
from api.sync.expiry import Expiry
from api.sync.syncs import Syncs
from api.waits import Waits
from api.webhooks.telling import Telling
from storage.database import Database
from tuner.store import Store, open_store


@dataclass(frozen=True)
class Server:
    """The components of one server process."""

    settings: Settings
    waits: Waits
    database: Database
    principals: Principals
    store: Store
    retention: Retention
    hub: Hub
    waiting: Waiting
    plans: Plans
    asker: Asker
    syncs: Syncs
    commands: Commands
    conductor: Conductor
    metrics: Metrics
    growth: Growth
    pools: Pools
    answers: Answers
    broadcasts: Broadcasts
    ownership: Ownership
    link: Link | None
    """To the other servers; None where there can be none."""


def kept(settings: Settings) -> Kept:
    """Return how long things are kept, as the settings say it."""
    return Kept(
        states=timedelta(days=settings.keep_states_days),
        weights=_days(settings.keep_weights_days),
        events=_days(settings.keep_events_days),
        reports=_days(settings.keep_reports_days),
    )


def _days(given: float | None) -> timedelta | None:
    return None if given is None else timedelta(days=given)


def build_server(
    settings: Settings, database: Database, principals: Principals, metrics: Metrics, waits: Waits
) -> Server:
    """Wire the control plane together."""
    shared = not database.is_sqlite
    outbox, shards = Outbox(), Shards()
    ownership: Ownership = shards if shared else Alone()
    hub, plans, growth, pools = Hub(outbox if shared else None), Plans(), Growth(shared=shared), Pools()
    asker = Asker(waits.sampler_s, lambda method, seconds: metrics.ask.labels(method).observe(seconds))
    proposing = Proposing(database, plans, hub, asker, ownership)
    store = open_store(settings.store_root)
    retention = Retention(database, plans, store, kept(settings))
    expiry = Expiry(database, plans, hub, ownership, settings.lease_s)
    syncs = Syncs(database, plans, settings.lease_s)
    telling = Telling(database, plans, hub, settings)

    def tell() -> None:
        dues = telling.due()
        with ownership.acting({due.study_id for due in dues}) as mine:
            telling.round([due for due in dues if due.study_id in mine])

    webhooks = Task("webhooks", tell, waits.webhooks_s, bell=hub.changes, apart_s=waits.webhooks_s)
    presence = Task("presence", syncs.store_presence, min(waits.presence_s, settings.lease_s / 3))
    others = [presence, webhooks]
    return Server(
        settings=settings,
        waits=waits,
        database=database,
        principals=principals,
        store=store,
        retention=retention,
        hub=hub,
        waiting=Waiting(),
        plans=plans,
        asker=asker,
        syncs=syncs,
        commands=Commands(database, plans, hub, retention),
        conductor=Conductor(
            database, plans, hub, proposing, expiry, retention, ownership, waits, others, lease_s=settings.lease_s
        ),
        metrics=metrics,
        growth=growth,
        pools=pools,
        answers=Answers(database, plans, growth, pools, pause=waits.pause),
        broadcasts=Broadcasts(database, hub, growth, pools.streams),
        ownership=ownership,
        link=Link(database, shards, hub, growth, outbox) if shared else None,
    )


async def _server(request: Request) -> Server:  # a plain function would be run in a thread
    server: Server = request.app.state.server
    return server


Srv = Annotated[Server, Depends(_server)]
