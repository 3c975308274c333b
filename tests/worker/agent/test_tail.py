"""The end of what a process prints."""

import os

from tuner.worker.agent.tail import MOST_BYTES, Tail


def test_the_end_is_kept_all_is_passed_on_and_counted() -> None:
    passed: list[bytes] = []
    tail = Tail(passed.append)
    reading, writing = os.pipe()
    thread = tail.follow(reading)
    for _ in range(300):
        os.write(writing, b"y" * 999 + b"\n")
    os.write(writing, "am Ende \u00e4".encode())
    tail.settle()
    assert tail.text().endswith("\nam Ende \u00e4") and len(tail.text().encode()) <= MOST_BYTES
    os.close(writing)
    thread.join(5)
    assert tail.written == sum(map(len, passed)) == 300_010


def test_a_character_that_was_cut_is_replaced() -> None:
    tail = Tail()
    tail.add(b"\xff" + "\u00e4".encode() * MOST_BYTES)
    assert tail.text().endswith("\u00e4\u00e4") and len(tail.text()) == MOST_BYTES // 2
