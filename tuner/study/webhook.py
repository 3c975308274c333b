"""The address that is told of the end of a study, as a document gives it."""

from urllib.parse import SplitResult, urlsplit

from tuner.study.reading import shown

PORTS = {"http": 80, "https": 443}
LONGEST = 2000


def split(url: str) -> SplitResult:
    """Split a webhook's URL. Raises `ValueError` that says what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown(url)} given; it is no URL: {error}") from error
    plain = len(url) <= LONGEST and url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in PORTS or not parts.hostname or port == 0 or not plain:
        raise ValueError(f"{shown(url)} given; allowed are URLs such as https://example.org/hook")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or password in it could be read by everybody who reads the study")
    return parts


def checked(url: str) -> str:
    """Return a URL if it is one. Raises `ValueError`."""
    split(url)
    return url
