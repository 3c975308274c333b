"""The sampler process: reads requests and writes responses, one JSON object per line, until its input closes.

What it holds between requests it can be sent again (`tuner.search.feeding`), so it can be killed and restarted at any
time.
"""

import json
import os
import sys

from tuner.search.feeding import Fed


def main() -> None:
    """Serve until the other end closes the pipe."""
    # Output printed by a library must not get between the responses.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    fed = Fed()
    for line in sys.stdin:
        try:
            answer = fed.answer(line)
        except Exception as error:  # the boundary: report it, or the server would wait
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            answers.write(f"{json.dumps(answer)}\n".encode())
        except BrokenPipeError:
            return  # the server was killed


if __name__ == "__main__":
    main()
