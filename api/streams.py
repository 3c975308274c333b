"""A response that never ends by itself, and does not wait for ever for a client that stopped reading."""

import asyncio
import logging

from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

log = logging.getLogger(__name__)
SEND_S = 20.0
"""Seconds that one piece may take to be accepted."""


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send piece by piece; give up on a client that takes none for `SEND_S`."""

        async def bounded(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        try:
            await super().stream_response(bounded)
        except TimeoutError:
            log.info("a client that reads no events was dropped", extra={"action": "stream_dropped"})
        finally:
            aclose = getattr(self.body_iterator, "aclose", None)
            if aclose is not None:
                await aclose()  # its follower leaves now, not when the garbage is collected
