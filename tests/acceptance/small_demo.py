"""A study whose trials last until a test is done with them, and the configurations that it must train."""

from live_server import LiveServer

from tuner.search.methods import propose
from tuner.search.request import AskRequest, Search
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Scalar
from tuner.terminal.demo import DEMO_DOCUMENT

EXAMPLES = 2400
DOCUMENT = {
    **DEMO_DOCUMENT,
    "workload": "paced",
    "run_cap": 32,
    "parallel": 16,
    "budget": {"examples_per_trial": EXAMPLES},
    "retry": {"max": 5},
}


def expected_configurations(run_cap: int) -> list[dict[str, Scalar]]:
    """What an undisturbed study trains: the method is deterministic."""
    spec = parse_study({**DOCUMENT, "run_cap": run_cap}, load_catalogue(), ["paced"])
    spaces = families(spec, load_catalogue())
    found = []
    for number in range(spec.run_cap):
        space, index = spaces[number % len(spaces)], number // len(spaces)
        ask = AskRequest(Search(spec.method, spec.seed, space.optimizer, space.swept, True, 3), [index], {})
        found.append(space.configuration(propose(ask)[0]))
    return found


def in_the_middle(server: LiveServer, attempt: int) -> bool:
    """Whether many trials are running for at least the `attempt`-th time, neither just begun nor about to end."""
    running = server.get("/studies/demo/trials?state=running&limit=1000")["items"]
    return sum(t["attempt"] >= attempt and 0 < t["examples"] <= EXAMPLES // 2 for t in running) >= 8
