"""The sampler process: reads requests and writes answers, one JSON object a line, until its input closes.

It holds no state between requests, so it can be killed and started again at any time.
"""

import json
import os
import sys

from tuner.search.methods import propose
from tuner.search.request import from_json


def main() -> None:
    """Serve until the other end goes away."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer: dict[str, object] = {"configurations": propose(from_json(json.loads(line)))}
        except Exception as error:  # the boundary: the server must hear of it instead of waiting
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
