"""The number of errors that is known while an audit round is running."""

from datetime import UTC, datetime

import pytest

from server.ledger.audit_pages import Finding, Place
from server.ledger.audit_rounds import Round, Visit

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def found(number: int, *, done: bool = True) -> Round:
    """Return a round that has found this many errors."""
    findings = [Finding("kind", number, ())] if number else []
    return Round(NOW, 1, findings, None if done else Place(), NOW if done else None)


@pytest.mark.parametrize(
    ("running", "last", "known"),
    [
        pytest.param(found(0, done=False), None, 0, id="the first round has just begun"),
        pytest.param(found(2, done=False), None, 2, id="it has found something"),
        pytest.param(found(0, done=False), found(3), 3, id="the next one has not come to it"),
        pytest.param(found(1, done=False), found(3), 3, id="it has come to some of it"),
        pytest.param(found(5, done=False), found(3), 5, id="it has found more"),
        pytest.param(found(0), found(3), 0, id="it has looked everywhere and found nothing"),
        pytest.param(found(1), found(3), 1, id="it has looked everywhere"),
    ],
)
def test_what_is_known(running: Round, last: Round | None, known: int) -> None:
    """The findings of a round count until the next round has looked everywhere or has found more."""
    assert Visit(1, 0, running, last).findings == known
