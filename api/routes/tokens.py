"""Access tokens.

POST   /tokens            create one; its secret is in this response and nowhere else
GET    /tokens            list them, without their secrets
DELETE /tokens/{token}    revoke one
"""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request

from api.access.needs import PRINCIPAL
from api.access.principals import Principal, cookie_of, digest_of, new_secret
from api.requests import CheckedRoute
from api.state import Server, Srv
from storage import tokens
from storage.tokens import TokenRecord
from tuner.errors import Conflict
from tuner.wire.access import CreatedToken, NewToken, Role, TokenView
from tuner.wire.message import Count
from tuner.wire.views import Page

router = APIRouter(prefix="/tokens", tags=["tokens"], route_class=CheckedRoute)


@router.post("", status_code=201)
def create(server: Srv, request: Request, wanted: NewToken) -> CreatedToken:
    """Create a token. The first admin's token of an open server closes it: from then on everybody needs one."""
    secret, principal = new_secret(), _principal(request)
    if server.principals.open and wanted.role != Role.ADMIN:
        raise Conflict(
            "this server asks nobody for a token, so another role's would mean nothing; create an admin's first"
        )
    with server.database.write() as session:
        now = server.database.now(session)
        expires = now + timedelta(days=wanted.expires_days) if wanted.expires_days is not None else None
        record = tokens.create(
            session,
            digest=digest_of(secret),
            cookie_digest=digest_of(cookie_of(secret)),
            role=wanted.role,
            label=wanted.label,
            created_by=principal.name or "",
            expires_at=expires,
            now=now,
        )
    server.principals.reload()
    return CreatedToken(**_view(record).model_dump(), token=secret)


@router.get("")
def list_tokens(server: Srv) -> Page[TokenView]:
    """List all tokens, revoked and expired ones too."""
    with server.database.read() as session:
        return Page(items=[_view(record) for record in tokens.every(session)])


@router.delete("/{token}")
def revoke(server: Srv, token: Count) -> TokenView:
    """Revoke a token: at once here, within seconds on other servers of the database, open streams within a minute.

    Raises:
        Conflict: nobody could do anything any more, or a server that other machines can reach would be open.
    """
    with server.database.write() as session:
        now = server.database.now(session)
        record = tokens.revoke(session, token_id=token, now=now)
        _check_not_last(server, record, tokens.admins(session))
    server.principals.reload()
    return _view(record)


def _check_not_last(server: Server, revoked: TokenRecord, admins: list[TokenRecord]) -> None:
    settings = server.settings
    by_proxy = bool(settings.trusted_proxies) and (
        bool(settings.proxy_admins) or Role(settings.proxy_role) is Role.ADMIN
    )
    someone = settings.token is not None or by_proxy or any(admin.is_valid(datetime.now(UTC)) for admin in admins)
    # On this machine alone the server is open again, as it was before the first token.
    opens = settings.on_loopback and not settings.trusted_proxies and not admins
    if revoked.role == Role.ADMIN and not someone and not opens:
        raise Conflict(f"token {revoked.id} is the last admin's that is valid; create another one first")


def _principal(request: Request) -> Principal:
    principal: Principal = request.scope[PRINCIPAL]
    return principal


def _view(record: TokenRecord) -> TokenView:
    state = "revoked" if record.revoked_at is not None else "valid" if record.is_valid(datetime.now(UTC)) else "expired"
    return TokenView(
        id=record.id,
        role=record.role,
        label=record.label,
        state=state,
        created_at=record.created_at,
        created_by=record.created_by,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
    )
