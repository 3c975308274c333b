"""Calls the webhook of a study that has ended: signed, tried again for a day, and noted in the study's history.

The body is JSON. `Tuner-Signature: t=TIME,v1=HEX` is the HMAC-SHA256 of `TIME.BODY` with TUNER_WEBHOOK_SECRET, where
one is set. `Tuner-Delivery` names the end, so that who gets it twice can tell. Redirections are not followed.
"""

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx2

from api.hub import Hub
from api.plans import Plans
from api.settings import Settings
from api.views import trial_view
from api.webhooks.addresses import NotCallable, callable_address
from storage import events, studies, trials, webhooks
from storage.database import Database
from storage.events import Change
from storage.webhooks import Due
from tuner.study.webhook import split

log = logging.getLogger(__name__)
PAUSES_S = (5, 30, 120, 600, 3600, 4 * 3600, 8 * 3600, 12 * 3600)
"""Before each further try: a day and four minutes together."""
PATIENCE_S = 10.0


class Failed(Exception):
    """The other end did not take it; `final` if another try would not help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Telling:
    """Call `round` every second or so, from one thread."""

    def __init__(self, database: Database, plans: Plans, hub: Hub, settings: Settings) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._private = settings.webhook_private
        self._secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None

    def due(self) -> list[Due]:
        """Return the ends that are to be told now."""
        with self._database.read() as session:
            return webhooks.due(session, now=self._database.now(session))

    def round(self, dues: Sequence[Due]) -> None:
        """Tell of these ends, one after the other."""
        for due in dues:
            try:
                status = self._call(due)
            except Failed as failure:
                self._note_failure(due, failure)
            else:
                self._end(due, "study.told", {"webhook": due.webhook, "status": status, "tries": due.tries + 1})

    def _call(self, due: Due) -> int:
        """Send one request; return the status."""
        body = json.dumps(self._message(due)).encode()
        try:
            parts = split(due.webhook)
            address = callable_address(parts, private=self._private)
        except (ValueError, NotCallable) as error:
            raise Failed(str(error), final=True) from error
        except OSError as error:
            raise Failed(f"{parts.hostname} cannot be resolved: {error.strerror or error}") from error
        host = f"[{address}]" if ":" in address else address
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        try:
            with httpx2.Client(timeout=PATIENCE_S, follow_redirects=False, trust_env=False) as client:
                answer = client.post(
                    parts._replace(netloc=netloc, fragment="").geturl(),
                    content=body,
                    headers=self._headers(due, body) | {"Host": parts.netloc},
                    extensions={"sni_hostname": parts.hostname},
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failed(str(error) or type(error).__name__) from error
        if not answer.is_success:
            raise Failed(f"it answered {answer.status_code}", final=answer.status_code == 410)
        return answer.status_code

    def _message(self, due: Due) -> dict[str, Any]:
        with self._database.read() as session:
            study = studies.get(session, due.study_id)
            best = trials.best(session, study_id=study.id, minimize=self._plans.of(study).minimize)
            counts = studies.progress(session, study_ids=[study.id]).get(study.id)
            shown = trial_view(session, study, best).model_dump(mode="json") if best is not None else None
        return {
            "event": f"study.{study.state}",
            "study": study.name,
            "id": study.id,
            "state": study.state,
            "reason": study.reason,
            "finished_at": due.end.isoformat(),
            "counts": counts.counts if counts is not None else {},
            "best": shown,
        }

    def _headers(self, due: Due, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "tuner-webhook",
            "Tuner-Delivery": f"{due.study_id}-{due.end:%Y%m%dT%H%M%S%f}",
        }
        if self._secret is not None:
            headers["Tuner-Signature"] = signature(self._secret, body, int(time.time()))
        return headers

    def _note_failure(self, due: Due, failure: Failed) -> None:
        if failure.final or due.tries >= len(PAUSES_S):
            self._end(due, "study.not_told", {"webhook": due.webhook, "why": str(failure), "tries": due.tries + 1})
            return
        log.warning("a webhook failed: %s", failure, extra={"action": "webhook", "study": due.study_id})
        with self._database.write() as session:
            pause = timedelta(seconds=PAUSES_S[due.tries])
            webhooks.failed(session, of=due, next_try=self._database.now(session) + pause)

    def _end(self, due: Due, kind: str, data: dict[str, Any]) -> None:
        with self._database.write() as session:
            webhooks.done(session, of=due)
            now = self._database.now(session)
            events.append(session, changes=[Change(due.study_id, kind, None, data)], now=now)
        log.info("%s", kind, extra={"action": "webhook", "study": due.study_id})
        self._hub.tell([due.study_id])


def signature(secret: str, body: bytes, at: int) -> str:
    """Sign a body at a Unix time, in seconds."""
    return f"t={at},v1={hmac.new(secret.encode(), f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"
