"""The socket that the server listens on: open before the app is loaded, so that early requests wait, not fail."""

import socket

from api.settings import Settings
from tuner.errors import TunerError


class CannotServe(TunerError):
    """The server cannot start."""


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say. Raises `CannotServe` with the remedy."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another with --port, "
            "or stop the process that uses it"
        ) from error
    return listener


def url_of(settings: Settings, listener: socket.socket) -> str:
    """Return the address under which this machine reaches the server."""
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
