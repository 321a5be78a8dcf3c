"""The scenarios by name: what one is when nothing else is asked for, and what must come of it."""

from typing import NamedTuple

from loadtests.kit.plan import Limit

# Answers in milliseconds. Generous: a laptop that runs the users, the service and its databases must pass; a bar that
# means something to you is set with --bar.
CALM = {"p50_ms": 250.0, "p95_ms": 1_000.0, "p99_ms": 2_500.0}
# Requests of one user a second.
PACE = 10.0
# The key that a flood is sent with, and how many times its limit that is.
FLOOD_LIMIT = Limit(quota=40, window=1, burst=60)
FLOOD = 10
# Of what the limit allows, at least so much must have been admitted while everybody asked for more.
ADMITTED_SHARE_MIN = 0.9


class Scenario(NamedTuple):
    """A kind of traffic, its usual size, and the checks that it must have given work to."""

    summary: str
    users: int
    accounts: int
    must_judge: tuple[str, ...]
    pace: float = PACE


SCENARIOS = {
    "reads": Scenario(
        "accounts are read, the busiest most (Zipf); a payment now and then keeps them moving",
        users=20,
        accounts=200,
        must_judge=("C1", "C3", "C5", "C6"),
    ),
    "payments": Scenario(
        "payments; of 5 in 100 the answer is lost and asked for again under the same key, 2 in 100 are refused",
        users=20,
        accounts=200,
        must_judge=("C1", "C2", "C3", "C4", "C5"),
    ),
    "retry_storm": Scenario(
        "every payment is sent three times at once",
        users=15,
        accounts=100,
        must_judge=("C1", "C2", "C3", "C4"),
        pace=4.0,
    ),
    "hot_account": Scenario(
        "a tenth of all payments are on one account",
        users=20,
        accounts=200,
        must_judge=("C1", "C2", "C3"),
    ),
    "flood": Scenario(
        f"{FLOOD} times what the key's limit allows",
        users=20,
        accounts=20,
        must_judge=("C1", "C2", "C3"),
    ),
    "mixed": Scenario(
        "four payments to one read, lost answers, refusals and keys used twice by mistake among them",
        users=20,
        accounts=200,
        must_judge=("C1", "C2", "C3", "C4", "C5", "C6", "C7"),
    ),
    "bulk": Scenario(
        "twenty transfers a request, each for itself or all or none; one in four is sent again",
        users=10,
        accounts=200,
        must_judge=("C1", "C2", "C3", "C4"),
        pace=2.0,
    ),
}
SHAPES = {
    "steady": "all users all the time",
    "ramp": "from one user to all of them",
    "spike": "a fifth of the users, then all of them, then a fifth again",
    "soak": "all users for long; latency must not rise",
    "knee": "twice the users step by step, without pauses, until more of them bring no more answers",
}
