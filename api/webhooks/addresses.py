"""Which addresses the server may call on behalf of a user: not those of its own machine or network.

Otherwise whoever can submit a study could have the server call what only it can reach: a metadata service, a database,
itself. The name is resolved once, every address that it has must be public, and the connection is made to one of those:
a name that means something else a moment later gains nothing.
"""

import socket
from ipaddress import ip_address
from urllib.parse import SplitResult

from tuner.errors import TunerError
from tuner.study.webhook import PORTS


class NotCallable(TunerError):
    """An address that the server does not call."""


def callable_address(parts: SplitResult, *, private: bool) -> str:
    """Resolve a URL's host to one address that may be called; `private` allows those of our own network too.

    Raises:
        NotCallable: it has an address that may not be called.
        OSError: the name cannot be resolved.
    """
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not private and not ip_address(address.partition("%")[0]).is_global:
            raise NotCallable(
                f"{host} has the address {address}, which is not public; TUNER_WEBHOOK_PRIVATE=true allows it"
            )
    return found[0]
