"""Who asks: by a token, a login cookie, a proxy that logs people in, or nobody in particular.

The server is open, that is everybody who reaches it may do everything, as long as it listens on this machine alone and
there is neither TUNER_TOKEN nor an admin's token in its database nor a proxy that names people. A token that expired
still closes it. Tokens are compared by their digests; those of the database are read again every few seconds, since
another server may have revoked one.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from api.settings import Settings
from storage import tokens
from storage.database import Database, DatabaseUnusable
from storage.tokens import TokenRecord
from tuner.wire.access import Role, SessionView

log = logging.getLogger(__name__)
FRESH_S = 5.0
"""How long another server's change of the tokens may go unnoticed."""
SECRET_BYTES = 32


@dataclass(frozen=True)
class Principal:
    """Who asks. `secret` is the digest of the token that told, None without one."""

    view: SessionView
    secret: str | None = field(default=None, repr=False)

    @property
    def role(self) -> Role:
        """What it may do."""
        return self.view.role

    @property
    def name(self) -> str | None:
        """What is written beside its actions; None when it is not known."""
        return self.view.name if self.view.how in ("shared", "token", "proxy") else None


NOBODY = Principal(SessionView(name="everybody", role=Role.ADMIN, how="open"))
SHARED = SessionView(name="TUNER_TOKEN", role=Role.ADMIN, how="shared")
LOCAL = SessionView(name="local worker", role=Role.WORKER, how="local")


def new_secret() -> str:
    """Return a token of 256 random bits."""
    return f"tuner_{secrets.token_urlsafe(SECRET_BYTES)}"


def digest_of(secret: str) -> str:
    """Return what is stored in place of a secret of 256 bits: no slower hash is needed for one."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def cookie_of(token: str) -> str:
    """Derive what the login cookie holds, so that the token itself is not stored in the browser."""
    return hashlib.sha256(b"tuner login cookie:" + token.encode(errors="replace")).hexdigest()


class Principals:
    """Knows the tokens. `reload` may be called from any thread, everything else on the event loop."""

    def __init__(self, database: Database, settings: Settings, local_secret: str | None = None) -> None:
        """`local_secret` is the token of the server's own workers."""
        self._database = database
        self._on_loopback = settings.on_loopback
        self._proxied = bool(settings.trusted_proxies)
        self._fixed: dict[str, Principal] = {}
        self._cookies: dict[str, Principal] = {}
        self._stored: list[TokenRecord] = []
        self._by_digest: dict[str, TokenRecord] = {}
        self._loaded_at = 0.0
        self._shared = settings.token is not None
        if settings.token is not None:
            self._know(settings.token.get_secret_value(), SHARED)
        if local_secret is not None:
            self._fixed[digest_of(local_secret)] = Principal(LOCAL, digest_of(local_secret))

    def _know(self, token: str, view: SessionView) -> None:
        principal = Principal(view, digest_of(token))
        self._fixed[digest_of(token)] = principal
        self._cookies[digest_of(cookie_of(token))] = principal

    @property
    def open(self) -> bool:
        """Whether nobody needs a token."""
        return self._on_loopback and not self.guarded

    @property
    def guarded(self) -> bool:
        """Whether somebody has what the others need."""
        return self._shared or self._proxied or any(token.role == Role.ADMIN for token in self._stored)

    async def refresh(self) -> None:
        """Read the tokens again if that was long ago; while the database cannot be read, those known count."""
        if time.monotonic() - self._loaded_at < FRESH_S:
            return
        self._loaded_at = time.monotonic()
        try:
            await asyncio.to_thread(self.reload)
        except DatabaseUnusable as error:
            log.warning("tokens could not be read: %s", error, extra={"action": "tokens"})

    def reload(self) -> None:
        """Read the tokens from the database now."""
        with self._database.read() as session:
            self._stored = tokens.unrevoked(session)
        self._by_digest = {key: token for token in self._stored for key in (token.digest, token.cookie_digest)}
        self._loaded_at = time.monotonic()

    def of_token(self, text: str) -> Principal | None:
        """Find whose a token is."""
        digest = digest_of(text)
        return self._fixed.get(digest) or self._of_stored(digest, digest)

    def of_cookie(self, value: str) -> Principal | None:
        """Find who logged in with a cookie."""
        digest = digest_of(value)
        stored = self._by_digest.get(digest)
        if stored is not None and stored.cookie_digest == digest:
            return self._of_stored(digest, stored.digest)
        return self._cookies.get(digest)

    def _of_stored(self, key: str, digest: str) -> Principal | None:
        stored = self._by_digest.get(key)
        if stored is None or stored.digest != digest or not stored.is_valid(datetime.now(UTC)):
            return None
        return Principal(SessionView(name=stored.label, role=stored.role, how="token"), digest)

    async def still(self, principal: Principal) -> bool:
        """Whether a principal's token is valid still; without a token, whether the server is open or has a proxy."""
        await self.refresh()
        if principal.secret is None:
            return self.open if principal.view.how == "open" else self._proxied
        return principal.secret in self._fixed or self._of_stored(principal.secret, principal.secret) is not None
