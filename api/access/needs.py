"""Which roles may use which route: one table. A route without a row cannot be built.

Paths are written as their routers know them, without the API's own prefix.
"""

from collections.abc import Iterable

from starlette.types import Scope

from api.access.principals import Principal
from tuner.errors import Forbidden, NotAllowed
from tuner.wire.access import Role

V, S, A, W = Role.VIEWER, Role.SUBMITTER, Role.ADMIN, Role.WORKER

PUBLIC: frozenset[Role] = frozenset()
"""Nobody is asked who they are."""
READ = frozenset({V, S, A})
CHANGE = frozenset({S, A})
MANAGE = frozenset({A})
WORK = frozenset({W, A})
EXCHANGE = frozenset({W, S, A})
"""A session is known by its secret, which only who opened it has: a worker's, or that of somebody's own loop."""
ANYBODY = frozenset(Role)

NEEDS: dict[str, frozenset[Role]] = {
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "POST /api/v1/login": PUBLIC,
    "POST /api/v1/logout": PUBLIC,
    "GET /api/v1/session": ANYBODY,
    "GET /api/openapi.json": READ,
    "GET /metrics": READ,
    "GET /catalogue": READ,
    "GET /studies": READ,
    "POST /studies": CHANGE,
    "GET /studies/{study}": READ,
    "DELETE /studies/{study}": CHANGE,
    "PATCH /studies/{study}": CHANGE,
    "POST /studies/{study}/pause": CHANGE,
    "POST /studies/{study}/resume": CHANGE,
    "POST /studies/{study}/stop": CHANGE,
    "POST /studies/{study}/ask": CHANGE,
    "POST /studies/{study}/clone": CHANGE,
    "GET /studies/{study}/best": READ,
    "GET /studies/{study}/leaderboard": READ,
    "GET /studies/{study}/batch-advice": READ,
    "GET /studies/{study}/figures/{name}": READ,
    "GET /studies/{study}/events": READ,
    "GET /studies/{study}/history": READ,
    "GET /studies/{study}/trials": READ,
    "POST /studies/{study}/trials": CHANGE,
    "GET /studies/{study}/trials/{number}": READ,
    "GET /studies/{study}/trials/{number}/curve": READ,
    "GET /studies/{study}/trials/{number}/log": READ,
    "GET /studies/{study}/trials/{number}/weights": READ,
    "GET /studies/{study}/trials/{number}/figures/noise": READ,
    "POST /studies/{study}/trials/{number}/stop": CHANGE,
    "POST /studies/{study}/trials/{number}/retry": CHANGE,
    "GET /workers": READ,
    "POST /workers": WORK,
    "POST /workers/{worker}/sync": EXCHANGE,
    "POST /workers/{worker}/drain": MANAGE,
    "POST /workers/{worker}/release": MANAGE,
    "GET /tokens": MANAGE,
    "POST /tokens": MANAGE,
    "DELETE /tokens/{token}": MANAGE,
}

PRINCIPAL, REFUSAL = "tuner.principal", "tuner.refusal"
"""Where the gate leaves in a request's scope who asks, or why that is not known."""


def needed(methods: Iterable[str], path: str) -> frozenset[Role]:
    """Return the roles that may use a route. Raises `KeyError` for a route that has no row in the table."""
    found = {NEEDS[f"{method} {path}"] for method in methods if method not in ("HEAD", "OPTIONS")}
    (roles,) = found
    return roles


def allow(scope: Scope, roles: frozenset[Role]) -> Principal | None:
    """Return who asks, if their role is among those; None where nobody is asked.

    Raises:
        NotAllowed: it is not known who asks.
        Forbidden: their role is another one.
    """
    if roles is PUBLIC:
        return None
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is None:
        raise NotAllowed(scope.get(REFUSAL, "a token is required"))
    if principal.role not in roles:
        may = " or ".join(role for role in Role if role in roles)
        raise Forbidden(f"{principal.view.name} is {_article(principal.role)} {principal.role}; this needs {may}")
    return principal


def _article(role: Role) -> str:
    return "an" if role[0] in "aeiou" else "a"
