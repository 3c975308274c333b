"""Log lines say what they are about, in words or as JSON."""

import json
import logging

from tuner.logs import JsonLines, Words


def record(**extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "tuner.x", "levelname": "WARNING", "msg": "lease %s", "args": ("lost",), **extra}
    )


def test_words_name_what_the_line_is_about() -> None:
    line = Words().format(record(action="lease_lost", trial=3, worker="gpu0"))
    assert line.endswith("WARNING lease lost (trial=3, worker=gpu0)")
    assert Words().format(record()).endswith("WARNING lease lost")


def test_json_lines_hold_everything() -> None:
    line = json.loads(JsonLines().format(record(action="lease_lost", trial=3)))
    assert (line["message"], line["action"], line["trial"], line["level"]) == ("lease lost", "lease_lost", 3, "WARNING")
