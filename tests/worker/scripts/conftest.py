"""A worker of scripts for an app in this process: the real agent and places, on SQLite."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from in_process import client_of

from tuner.client import Client
from tuner.worker.agent.agent import Agent
from tuner.worker.scripts.command import words_of
from tuner.worker.scripts.place import Place, Terms


@pytest.fixture
def tuned(client: TestClient) -> Iterator[Client]:
    own, _ = client_of(client)
    with own:
        yield own


@pytest.fixture
def work(tuned: Client, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start workers that run a command; they are drained at the end."""
    running: list[tuple[Agent, threading.Thread]] = []

    def start(command: str, *, places: int = 1, **terms: Any) -> Agent:
        given = {"timeout_s": None, "grace_s": 0.5, **terms}
        own = Terms(words_of(command), tmp_path / "checkpoints", database=lambda: "database", **given)
        agent = Agent(tuned, [Place(f"cpu#{n}", own, None) for n in range(places)], name="scripts")
        thread = threading.Thread(target=agent.run)
        thread.start()
        running.append((agent, thread))
        return agent

    yield start
    for agent, _ in running:
        agent.stop()
    for _, thread in running:
        thread.join()
