"""Running a coroutine where the main thread may have an event loop already: Playwright leaves one in its process."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in a thread of its own; raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
