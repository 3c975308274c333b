"""Addresses and networks as settings name them."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network


def networks(texts: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """Read addresses and networks, e.g. `10.0.0.7` or `10.0.0.0/8`. Raises `ValueError` that names the wrong one."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} given; allowed are addresses such as 10.0.0.7 or 10.0.0.0/8") from error
    return found
