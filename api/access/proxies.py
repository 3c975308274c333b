"""Proxies that log people in: which addresses are theirs, and whom they name.

Only a request that comes from the address of such a proxy is believed; from elsewhere its headers mean nothing.
"""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from api.access.principals import Principal
from api.networks import networks
from api.settings import Settings
from tuner.wire.access import Role, SessionView

LONGEST_NAME = 200


class Proxies:
    """Knows the addresses of the proxies, and the roles of the people behind them."""

    def __init__(self, settings: Settings) -> None:
        self._networks = networks(settings.trusted_proxies)
        self._header = settings.proxy_user_header
        self._role = Role(settings.proxy_role)
        self._admins = frozenset(settings.proxy_admins)

    def is_one(self, scope: Scope) -> bool:
        """Whether a request comes from a trusted proxy."""
        client = scope.get("client")
        if not self._networks or client is None:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        return any(address.version == network.version and address in network for network in self._networks)

    def person(self, headers: Headers) -> Principal | None:
        """Return whom a trusted proxy's request names, None where it names nobody."""
        name = headers.get(self._header, "").strip()
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            return None
        role = Role.ADMIN if name in self._admins else self._role
        return Principal(SessionView(name=name, role=role, how="proxy"))

    def scheme(self, headers: Headers, scheme: str) -> str:
        """Return the scheme that the browser used, as a trusted proxy tells it."""
        told = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return told if told in ("http", "https") else scheme
