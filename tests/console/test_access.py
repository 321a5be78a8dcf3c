"""Who gets into the console, and from where."""

import contextlib

import pytest

from server.http.routes import ROUTES
from server.process.console.guard import FAILURES_MAX
from server.process.console.live import VIEWERS_MAX
from tests.console.steps import TOKEN, Console, assert_no_console, key_of
from tests.support.service import ServerProcess

# The page and its files, which are the same for everybody.
OPEN = ("", "/", "/static/app.js", "/static/style.css", "/static/favicon.svg")
# All else.
CLOSED = [
    ("GET", "/live"),
    ("GET", "/ledgers"),
    ("GET", "/anything"),
    ("GET", "/ledgers/1/transfers/01999999-0000-7000-8000-000000000000/children"),
    *(
        (route.method, f"/ledgers/1{route.path.replace('{id}', 'x')}")
        for route in ROUTES
        if route.path.startswith("/v1/")
    ),
]


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=str)
async def test_nothing_without_the_token(console: Console, method: str, path: str) -> None:
    """Whatever tells or does something answers 401 without the token, or with it anywhere but in its header field."""
    for headers in ({}, {"Cookie": f"token={TOKEN}"}):
        async with console.session.request(method, f"{console.url}{path}", headers=headers) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert response.headers["Cache-Control"] == "no-store"
    async with console.session.request(method, f"{console.url}{path}?token={TOKEN}") as response:
        assert response.status == 401


@pytest.mark.parametrize("path", OPEN)
async def test_what_a_browser_is_told(console: Console, path: str) -> None:
    """Nothing but our own files may be loaded, and nobody may frame them or learn where a link was."""
    async with console.session.get(console.url + path) as response:
        assert response.status == 200
        fields = response.headers
        directives = [part.strip() for part in fields["Content-Security-Policy"].split(";")]
        assert directives[0] == "default-src 'self'"
        assert set(directives[1:]) == {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert fields["Referrer-Policy"] == "no-referrer"
        assert fields["Cache-Control"] == "no-store"
        text = await response.text()
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/console", 405),
        ("OPTIONS", "/console", 405),
        ("GET", "/console/live", 401),
        ("GET", "/console/static/..%2fguard.py", 404),
        ("GET", "/consoles", 404),
        ("GET", "/livez", 200),
        ("POST", "/metrics", 405),
    ],
    ids=str,
)
async def test_what_a_browser_is_told_of_all_else(console: Console, method: str, path: str, status: int) -> None:
    """Every answer of the admin port has the same fields, also those that are no page."""
    async with console.session.request(method, console.server.admin_url + path) as response:
        assert response.status == status
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"


async def test_wrong_tokens(console: Console) -> None:
    """They are refused; after many of them callers are told to wait, but for who has the right one."""
    key = await key_of(console.server)
    wrong = [
        f"Bearer {key}",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        *["Bearer x"] * FAILURES_MAX,
    ]
    answers = [await console.ask("GET", "/ledgers", Authorization=text) for text in wrong]
    statuses = [status for status, _ in answers]
    assert "The token is wrong" in answers[0][1]["detail"]
    assert statuses[:FAILURES_MAX] == [401] * FAILURES_MAX
    assert set(statuses[FAILURES_MAX:]) == {429}
    assert (await console.ask("GET", "/ledgers"))[0] == 200
    assert TOKEN not in console.server.log_text()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("127.0.0.1", 200, id="its address"),
        pytest.param("localhost:8081", 200, id="localhost"),
        pytest.param("[::1]:8081", 200, id="an address of IPv6"),
        pytest.param("evil.example", 421, id="a name that somebody has pointed here"),
        pytest.param("127.0.0.1.evil.example", 421, id="one that begins as an address does"),
        pytest.param("localhost.evil.example:8081", 421, id="one that begins as localhost does"),
        pytest.param("", 421, id="none"),
    ],
)
async def test_names(console: Console, host: str, status: int) -> None:
    """The console answers only under names that no page of others can take for its own, token or not."""
    headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    for path in ("", "/static/app.js", "/ledgers"):
        async with console.session.get(console.url + path, headers=headers) as response:
            assert response.status == status


async def test_the_public_port_has_none_of_it(console: Console) -> None:
    """There a request for it is one for nothing, token or not."""
    for path in (*OPEN, *(path for _, path in CLOSED)):
        for token in (TOKEN, console.client.token):
            headers = {"Authorization": f"Bearer {token}"}
            async with console.session.get(f"{console.server.url}/console{path}", headers=headers) as response:
                assert response.status == (401 if token == TOKEN else 404)


async def test_reads_change_nothing(console: Console) -> None:
    """Every change is a request of another method, with a body of JSON that no form of a page can send."""
    ledger = await console.ledger()
    await console.client.open("still")
    before = await console.ask("GET", f"/ledgers/{ledger}/v1/accounts/still")
    for route in ROUTES:
        if route.method != "GET" and route.path.startswith("/v1/"):
            await console.ask("GET", f"/ledgers/{ledger}{route.path.replace('{id}', 'still')}")
    assert await console.ask("GET", f"/ledgers/{ledger}/v1/accounts/still") == before
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}
    address = f"{console.url}/ledgers/{ledger}/v1/webhook-endpoints"
    async with console.session.post(address, data=b'{"url":"https://example.com"}', headers=headers) as response:
        assert response.status == 415


async def test_no_money_is_moved(console: Console) -> None:
    """An operator reads the books and writes none of them."""
    ledger = await console.ledger()
    for route in ROUTES:
        changes = route.method != "GET" and route.path.startswith(("/v1/accounts", "/v1/transfers"))
        if changes:
            path = route.path.replace("{id}", "x")
            assert (await console.ask(route.method, f"/ledgers/{ledger}{path}", {}))[0] == 404


async def test_viewers_are_counted(console: Console) -> None:
    """One on top is refused; when one goes there is room again."""
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def view(stack: contextlib.AsyncExitStack) -> int:
        response = await stack.enter_async_context(console.session.get(f"{console.url}/live", headers=headers))
        return response.status

    async with contextlib.AsyncExitStack() as stack:
        assert [await view(stack) for _ in range(VIEWERS_MAX)] == [200] * VIEWERS_MAX
        assert await view(stack) == 503


async def test_without_one(server_process: ServerProcess) -> None:
    """Where it is turned off there is nothing of it, and operators are answered all the same."""
    await server_process.start({"TALLYSTICK_CONSOLE": "false", "TALLYSTICK_CONSOLE_TOKEN": TOKEN})
    await assert_no_console(server_process)
