"""See the fixture."""

from one_thread import one_thread  # noqa: F401
