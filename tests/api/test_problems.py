"""Problems: every code has a page, every problem its members, and every request an id."""

import ast
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import server
from server.gate.key_store import KeyLimit
from server.http.problems import KINDS, TYPES
from server.http.render import REFUSALS
from server.http.routes import ROUTES
from server.store.sql import sql_root
from tests.api.steps import bulk, order, post
from tests.support.client import Answer, Client
from tests.support.service import Service, make_key

MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}
# The statuses that the contract lists; 500 is for errors in the service.
STATUSES = {400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 429, 500, 503}


@pytest.mark.parametrize("code", KINDS)
async def test_every_problem_has_a_page(service: Service, code: str) -> None:
    """Anybody can read the page that `type` leads to, without a key."""
    page = await Client(service.session, service.url, None).get(f"/problems/{code}")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    assert f"<code>{KINDS[code].status} {code}</code>" in text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


async def test_the_index_lists_every_problem(service: Service) -> None:
    """The index of problems links to every page."""
    page = await Client(service.session, service.url, None).get("/problems")
    linked = re.findall(r'href="/problems/([a-z_]+)"', page.body.decode())
    assert sorted(linked) == sorted(KINDS)


async def test_a_problem_nobody_has_is_not_found(service: Service) -> None:
    """The page of an unknown code is a 404 that repeats nothing of the path."""
    answer = await Client(service.session, service.url, None).get("/problems/<script>")
    assert (answer.status, answer.code) == (404, "not_found")
    assert b"script" not in answer.body


def _codes_in_code() -> set[str]:
    """Return every code that the service's sources make a problem of."""
    found = set()
    for path in Path(server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _makes_problem(path, node.func) and node.args:
                constants = [leaf for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)]
                found |= {leaf.value for leaf in constants if isinstance(leaf.value, str)}
    return found


def _makes_problem(path: Path, function: ast.expr) -> bool:
    """Return whether a call makes a problem, itself or as a base class's constructor in server/http."""
    if getattr(function, "attr", "") == "__init__":
        return path.parent.name == "http"
    return getattr(function, "id", "") == "Problem"


def _codes_in_sql() -> set[str]:
    """Return every refusal in the SQL function that posts."""
    text = (sql_root() / "functions" / "post_transfers.sql").read_text(encoding="utf-8")
    lines = [
        line for line in text.splitlines() if re.search(r"refusal := |outcomes\[j\] := |(unfit|exceeding) +:=", line)
    ]
    assignments = re.findall(r"(?:refusal|outcomes\[j\]|unfit|exceeding) +:= ([^;]+);", "\n".join(lines))
    return {code for assigned in assignments for code in re.findall(r"'([a-z_]+)'", assigned)}


def test_the_catalogue_is_complete() -> None:
    """Every code in use is in the catalogue, and every code of the catalogue is in use."""
    assert _codes_in_sql() == set(REFUSALS)
    used = _codes_in_code() | set(REFUSALS)
    assert used - set(KINDS) == set()
    assert set(KINDS) - used == set()


def test_every_problem_tells_what_it_means() -> None:
    """Each code has one of the contract's statuses, a title, a sentence, and advice on retries."""
    for code, kind in KINDS.items():
        assert kind.status in STATUSES, code
        assert kind.retry in ("same_key", "new_key", "never"), code
        assert kind.title, code
        assert kind.text.endswith("."), code


async def _answers(client: Client, service: Service, ledger: str) -> dict[str, Answer]:
    """Return an answer for every code that a caller can cause, by method and code."""
    await client.fund("alice", 100)
    for account, ceiling in (("bob", None), ("full", 0), ("closed", None)):
        await client.open(account, ceiling=ceiling)
    await client.open("dollars", "USD")
    await client.send("PATCH", "/v1/accounts/closed", {"closed": True})
    await post(client, order(), "taken")
    hold, moved = [(await client.transfer("alice", "bob", 2, hold=held)).json["id"] for held in (True, False)]
    nobody, reader = Client(client.session, client.url, None), await service.client(ledger, "read")
    once = Client(
        client.session, client.url, await make_key(service.database_url, ledger, limit=KeyLimit(1, 86_400, 1))
    )
    revoked = (await client.post("/v1/api-keys", {"role": "read"})).json["id"]
    await client.send("DELETE", f"/v1/api-keys/{revoked}")
    fifty = {f"k{n}": "" for n in range(51)}
    text = {"Content-Type": "text/plain"}
    stale = {"If-Match": '"99"'}
    found = [
        await client.get("/v1/accounts?limit=0"),
        await nobody.get("/v1/accounts"),
        await client.get("/v1/nothing"),
        await client.get("/v1/accounts/nobody"),
        await client.get("/v1/accounts/alice?min_version=99"),
        await client.get("/v1/events?after=9223372036854775807"),
        await client.get("/v1/transfers/nothing"),
        await client.get("/v1/idempotency-keys/nothing"),
        await client.get("/v1/webhook-endpoints/nothing"),
        await client.get("/v1/api-keys/nothing"),
        await client.post(f"/v1/api-keys/{revoked}/rotate", {}),
        await client.post("/v1/accounts/alice/entries", {}),
        await client.post("/v1/transfers", order(amount=0)),
        await client.post("/v1/transfers", order()),
        await post(client, order(), "a b"),
        await post(client, {}, "a-key", "/v1/accounts"),
        await post(nobody, order(), "k1"),
        await post(reader, order(), "k2"),
        await client.post("/v1/nothing", {}),
        await client.send("POST", "/v1/transfers", raw=b" " * 65_537),
        await client.send("POST", "/v1/transfers", raw=b"{}", headers=text),
        await post(client, order(amount=11), "taken"),
        await client.transfer("alice", "bob", 1, conditions={"source_version": 99}),
        *[
            await client.transfer("alice", destination, amount)
            for destination, amount in (("nobody", 1), ("dollars", 1), ("closed", 1), ("bob", 101), ("full", 1))
        ],
        await client.transfer("world", "alice", 2**63 - 1),
        *[
            await post(client, {} if amount is None else {"amount": amount}, f"child-{n}", f"/v1/transfers/{path}")
            for n, (path, amount) in enumerate(
                [(f"{hold}/capture", 3), (f"{moved}/capture", 1), (f"{moved}/reverse", 3), (f"{uuid4()}/void", None)]
            )
        ],
        await client.open("alice", "USD"),
        *[await client.send("PATCH", "/v1/accounts/full", change) for change in ({"floor": 1}, {"metadata": fifty})],
        await client.send("PATCH", "/v1/accounts/bob", {"metadata": dict.fromkeys(list(fifty)[:50], "")}),
        await client.send("PATCH", "/v1/accounts/bob", {"metadata": {"one more": ""}}),
        await client.send("PATCH", "/v1/accounts/bob", {"closed": True}, headers=stale),
        await once.post("/v1/accounts/bulk", {"accounts": [{}, {}]}),
        *[await once.get("/v1/accounts") for _ in range(2)],
        await post(once, order(), "k3"),
    ]
    kept = [answer for answer in found if answer.status >= 400]
    return {f"{'write' if 'outcome' in answer.json else 'read'} {answer.code}": answer for answer in kept}


async def test_every_problem_has_its_members(client: Client, service: Service, ledger: str) -> None:
    """Every problem that a caller can cause is complete, names its page, and gives writers its outcome and retry."""
    answers = await _answers(client, service, ledger)
    for name, answer in answers.items():
        _check(answer.json, name)
        assert answer.headers["Content-Type"] == "application/problem+json", name
        assert (answer.json["status"], answer.json["request_id"]) == (answer.status, answer.headers["X-Request-Id"])
    (linked, _) = await bulk(client, [{"key": "l1", **order()}, {"key": "l2", **order("nobody", "bob")}], atomic=True)
    _check(linked["problem"], "write linked_failed")
    brought_about = {name.split()[1] for name in answers} | {"linked_failed"}
    # These need a server that is stopping, lost, broken or busy, or bytes that are not HTTP. The tests of faults,
    # limits, input and webhooks cover them.
    others = {"idempotency_key_in_use", "internal_error", "malformed_request", "not_ready", "overloaded", "unavailable"}
    others |= {"request_timeout", "too_many_running", "webhook_endpoints_full", "webhooks_not_configured"}
    others |= {"api_keys_full"}
    assert brought_about == set(KINDS) - others


def _check(document: dict[str, Any], name: str) -> None:
    """Check the members of a problem; *name* is `write` or `read` and the code."""
    kind, _, code = name.partition(" ")
    extra = {"outcome", "retry"} if kind == "write" else set()
    assert MEMBERS | extra <= set(document), name
    assert (document["code"], document["title"]) == (code, KINDS[code].title)
    assert document["type"] == TYPES.get(code, f"/problems/{code}"), name
    assert document["detail"], name
    if kind == "write":
        assert document["outcome"] in ("not_applied", "refused"), name
        assert document["retry"] in ("same_key", "new_key", "never"), name
    if code == "invalid_request":
        assert [set(error) for error in document["errors"]] == [{"pointer", "detail"}], name


@pytest.mark.parametrize(
    "path",
    [
        *("//", "/v1", "/v2/accounts", "/v1/Accounts", "/v1/accounts/", "/v1/accounts/a/b", "/v1/accounts/a/entries/b"),
        *("/v1/transfers/x/y/z", "/v1/idempotency-keys", "/v1/idempotency-keys/", "/problems/", "/problems/x/y"),
        *("/livez/", "/favicon.ico", "/v1/accounts//entries", "/.git/config"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
async def test_an_unknown_path_is_a_problem(client: Client, method: str, path: str) -> None:
    """An unknown path is a 404 problem, with a key and without."""
    for sender in (client, Client(client.session, client.url, None)):
        answer = await sender.send(method, path)
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
        if method != "HEAD":
            assert answer.code == "not_found"
            assert ("outcome" in answer.json) == (method != "GET")


def _allowed() -> dict[str, set[str]]:
    """Return the methods of every path in the route table, with an id in place of each name."""
    methods: dict[str, set[str]] = {}
    for route in ROUTES:
        methods.setdefault(route.path, set()).update(
            (route.method, "HEAD") if route.method == "GET" else (route.method,)
        )
    for path, own in methods.items():
        own.update(methods.get(f"{path.rpartition('/')[0]}/{{id}}", ()))
    return {path.replace("{id}", "some-id"): own for path, own in methods.items()}


@pytest.mark.parametrize(("path", "allowed"), _allowed().items(), ids=list(_allowed()))
async def test_an_unknown_method_is_a_problem(client: Client, path: str, allowed: set[str]) -> None:
    """A method that a path does not have is a 405 whose Allow lists the path's methods."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"} - allowed:
        answer = await client.send(method, path, {} if method in ("PUT", "PATCH") else None)
        assert (answer.status, answer.code) == (405, "method_not_allowed"), method
        assert set(answer.headers["Allow"].split(", ")) == allowed, method
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("request_id", ["a", "7f0c", "client-1:step.2_x", "A" * 64])
async def test_a_sane_request_id_is_kept(client: Client, request_id: str) -> None:
    """The caller's id is returned in the header of every answer, and in the body of every problem."""
    await client.open("alice")
    for path, status in (("/v1/accounts/alice", 200), ("/v1/accounts/nobody", 404), ("/nothing", 404), ("/livez", 200)):
        answer = await client.get(path, X_Request_Id=request_id)
        assert (answer.status, answer.headers["X-Request-Id"]) == (status, request_id)
        if status == 404:
            assert answer.json["request_id"] == request_id
    unchanged = await client.get("/v1/accounts/alice", X_Request_Id=request_id, If_None_Match='"1"')
    assert (unchanged.status, unchanged.headers["X-Request-Id"]) == (304, request_id)


@pytest.mark.parametrize("request_id", ["", " ", "a b", "A" * 65, "é", '"quoted"', "<b>", "a,b", "{}", "a;b", "a/b"])
async def test_an_insane_request_id_is_replaced(client: Client, request_id: str) -> None:
    """An id that could break a log or a page is replaced by a generated one, in header and body."""
    answer = await client.get("/v1/accounts/nobody", X_Request_Id=request_id)
    given = answer.headers["X-Request-Id"]
    assert given == answer.json["request_id"]
    assert given != request_id
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", given)


async def test_request_ids_are_not_repeated(client: Client) -> None:
    """Without a caller's id, every request gets its own."""
    ids = [(await client.get("/livez")).headers["X-Request-Id"] for _ in range(20)]
    assert len(set(ids)) == 20


async def test_the_items_of_a_bulk_carry_its_request_id(client: Client) -> None:
    """A problem inside a bulk has the request id of the bulk."""
    body = {"transfers": [{"key": "a", **order()}, {"key": "b", **order(amount=0)}]}
    answer = await client.send("POST", "/v1/transfers/bulk", body, headers={"X-Request-Id": "bulk-7"})
    assert [result["problem"]["request_id"] for result in answer.json["results"]] == ["bulk-7", "bulk-7"]
