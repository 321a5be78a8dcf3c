"""The outcomes of transfers: every rule in the order of the contract, and which one decides when several are broken."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from server.http.render import REFUSALS
from tests.api.steps import bulk, order, post
from tests.support.client import Answer, Client
from tests.support.service import Service


class Attempt(NamedTuple):
    """A request in which everything possible is wrong, until the rows of the table correct it."""

    role: str | None = None
    content_type: str = "text/plain"
    padding: int = 1_048_576
    amount: int = 0
    source: str = "absent"
    destination: str = "absent"
    key: str | None = None
    source_version: int = 99
    destination_version: int = 99
    source_available_gte: int = 99

    def body(self) -> dict[str, object]:
        """Return the transfer of this attempt."""
        names = ("source_version", "destination_version", "source_available_gte")
        conditions = {name: getattr(self, name) for name in names}
        return order(self.source, self.destination, self.amount, conditions=conditions)


class Row(NamedTuple):
    """The answer once the earlier rows have corrected their members, and what this row corrects."""

    code: str | int
    pointer: str | None
    then_right: dict[str, Any]


# In the order of the contract: auth, shape, key, existence, currency, state, conditions, funds. The rate limit, after
# auth, is tested elsewhere. Each row still breaks its own rule and all later rules.
ROWS = {
    "auth comes first": Row("unauthorized", None, {"role": "read"}),
    "then the role": Row("forbidden", None, {"role": "write"}),
    "then the type of the body": Row("unsupported_media_type", None, {"content_type": "application/json"}),
    "then its size": Row("body_too_large", None, {"padding": 0}),
    "then the shape of each field": Row("invalid_request", "/amount", {"amount": 10}),
    "then fields that contradict each other": Row("invalid_request", "/destination", {"destination": "absent-too"}),
    "then the presence of the key": Row("idempotency_key_missing", "/key", {"key": "not good"}),
    "then the shape of the key": Row("idempotency_key_invalid", "/key", {"key": "bound"}),
    "then what the key is bound to": Row("idempotency_key_reused", None, {"key": "free"}),
    "then the existence of the source": Row("account_not_found", "/source", {"source": "dollars"}),
    "then the existence of the destination": Row("account_not_found", "/destination", {"destination": "dollars-too"}),
    "then the currency of the source": Row("currency_mismatch", "/source", {"source": "closed"}),
    "then the currency of the destination": Row("currency_mismatch", "/destination", {"destination": "closed-too"}),
    "then whether the source is closed": Row("account_closed", "/source", {"source": "poor"}),
    "then whether the destination is closed": Row("account_closed", "/destination", {"destination": "full"}),
    "then the version of the source": Row("condition_failed", "/conditions/source_version", {"source_version": 1}),
    "then the version of the destination": Row(
        "condition_failed", "/conditions/destination_version", {"destination_version": 1}
    ),
    "then the condition on funds": Row(
        "condition_failed", "/conditions/source_available_gte", {"source_available_gte": 0}
    ),
    "then the funds": Row("insufficient_funds", "/source", {"source": "rich", "source_version": 2}),
    "then the ceiling": Row("ceiling_exceeded", "/destination", {"destination": "bob"}),
    "and nothing else": Row(201, None, {}),
}


def _attempts() -> Iterator[tuple[Attempt, Row]]:
    attempt = Attempt()
    for row in ROWS.values():
        yield attempt, row
        attempt = attempt._replace(**row.then_right)


TABLE = [pytest.param(attempt, row, id=name) for (attempt, row), name in zip(_attempts(), ROWS, strict=True)]


@pytest.fixture
async def stage(client: Client) -> Client:
    """A client whose ledger has an account for every reason to be refused."""
    assert (await client.open("world", floor=None)).status == 201
    for account, currency, ceiling in (
        ("dollars", "USD", None),
        ("dollars-too", "USD", 0),
        ("closed", "EUR", None),
        ("closed-too", "EUR", 0),
        ("poor", "EUR", None),
        ("full", "EUR", 0),
        ("rich", "EUR", None),
        ("bob", "EUR", None),
    ):
        assert (await client.open(account, currency, ceiling=ceiling)).status == 201
        if currency == "USD" or account.startswith("closed"):
            assert (await client.send("PATCH", f"/v1/accounts/{account}", {"closed": True})).status == 200
    assert (await client.transfer("world", "rich", 10)).status == 201
    assert (await client.transfer("world", "absent-for-ever", 10, "bound")).status == 404
    return client


class Senders(NamedTuple):
    """Clients of one ledger with keys of any role."""

    client: Client
    service: Service
    ledger: str

    async def of(self, role: str | None) -> Client:
        """Return a client with a key of this role, or without a key."""
        return (
            await self.service.client(self.ledger, role) if role else Client(self.client.session, self.client.url, None)
        )


@pytest.fixture
def senders(client: Client, service: Service, ledger: str) -> Senders:
    """Make clients of this test's ledger."""
    return Senders(client, service, ledger)


async def _send(sender: Client, path: str, attempt: Attempt, body: object, *, header: bool) -> Answer:
    fields = {"Content-Type": attempt.content_type}
    if header and attempt.key is not None:
        fields["Idempotency-Key"] = attempt.key
    return await sender.send("POST", path, raw=orjson.dumps(body) + b" " * attempt.padding, headers=fields)


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize(("attempt", "row"), TABLE)
async def test_the_first_broken_rule_decides(stage: Client, senders: Senders, attempt: Attempt, row: Row) -> None:
    """A transfer that breaks a rule and all later ones is answered by that rule."""
    sender = await senders.of(attempt.role)
    answer = await _send(sender, "/v1/transfers", attempt, attempt.body(), header=True)
    document = answer.json
    assert document.get("code", answer.status) == row.code, document
    if row.code == "invalid_request":
        assert [error["pointer"] for error in document["errors"]] == [row.pointer]
    elif answer.status in (404, 409):
        assert (document["pointer"], document["outcome"], document["retry"]) == (row.pointer, "refused", "new_key")
    elif answer.status != 201:
        assert document["outcome"] == "not_applied"
    assert await stage.balance("bob") == (10 if answer.status == 201 else 0)


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize("atomic", [False, True], ids=["each for itself", "linked"])
@pytest.mark.parametrize(("attempt", "row"), TABLE)
async def test_the_first_broken_rule_decides_in_bulk(
    stage: Client, senders: Senders, attempt: Attempt, row: Row, atomic: bool
) -> None:
    """An item that breaks a rule and all later ones is answered like the same transfer alone."""
    sender = await senders.of(attempt.role)
    item = {**attempt.body(), **({"key": attempt.key} if attempt.key is not None else {})}
    answer = await _send(sender, "/v1/transfers/bulk", attempt, {"atomic": atomic, "transfers": [item]}, header=False)
    if answer.status != 200:
        assert (answer.code, answer.json["outcome"]) == (row.code, "not_applied")
        return
    result = answer.json["results"][0]
    document = result.get("problem", {})
    assert document.get("code", result["status"]) == row.code, result
    if result["status"] == 400:
        assert [error["pointer"] for error in document["errors"]] == [f"/transfers/0{row.pointer}"]
    elif result["status"] in (404, 409):
        assert (document["pointer"], document["outcome"]) == (row.pointer, "refused")
    assert await stage.balance("bob") == (10 if result["status"] == 201 else 0)


async def test_every_refusal_of_the_ledger_is_in_the_table() -> None:
    """The table above has every refusal code, except those that need a sum beyond 64 bits, a set or a parent."""
    with_parent = {"transfer_not_found", "hold_not_open", "capture_exceeds_hold", "reversal_exceeds_transfer"}
    assert set(REFUSALS) - {row.code for row in ROWS.values()} == {"balance_overflow", "linked_failed", *with_parent}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param(order(amount=0), "/amount", id="no amount"),
        pytest.param(order(amount=-1), "/amount", id="a negative amount"),
        pytest.param(order(amount=2**63), "/amount", id="an amount beyond 64 bits"),
        pytest.param(order(amount=1.0), "/amount", id="a float"),
        pytest.param(order(amount="1"), "/amount", id="a text"),
        pytest.param(order(amount=True), "/amount", id="a boolean"),
        pytest.param(order("alice", "alice"), "/destination", id="one account on both sides"),
        pytest.param(order("-alice"), "/source", id="no account id"),
        pytest.param(order(destination="b" * 65), "/destination", id="an account id too long"),
        pytest.param(order(currency="eur"), "/currency", id="a currency in small letters"),
        pytest.param(order(currency="EU"), "/currency", id="a currency too short"),
        pytest.param(order(expires_in=60), "/expires_in", id="an expiry without a hold"),
        pytest.param(order(reference="r" * 256), "/reference", id="a reference too long"),
        pytest.param(order(conditions={"source_version": -1}), "/conditions/source_version", id="a negative version"),
        pytest.param(order(conditions={"source_version": 2**63}), "/conditions/source_version", id="a version too big"),
        pytest.param(order(conditions={"balance": 1}), "/conditions/balance", id="an unknown condition"),
        pytest.param(order(metadata={"a": "1", "k": 1, "z": 2}), "/metadata/k", id="metadata that is no text"),
        pytest.param(order(fee=1), "/fee", id="an unknown field"),
        pytest.param({"source": "alice", "destination": "bob", "amount": 1}, "/currency", id="a missing field"),
    ],
)
async def test_a_wrong_shape_is_pointed_at(client: Client, body: dict[str, object], pointer: str) -> None:
    """A wrong field is a 400 that points to it, alone and in bulk, whatever the ledger holds."""
    single = await post(client, body, "key")
    item = (await bulk(client, [{"key": "key", **body}]))[0]["problem"]
    assert (single.status, single.code, item["status"], item["code"]) == (400, "invalid_request") * 2
    assert single.json["errors"][0]["pointer"] == pointer
    assert item["errors"][0]["pointer"] == f"/transfers/0{pointer}"
