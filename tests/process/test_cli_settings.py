"""One parser of settings: what `serve` refuses, every command refuses, in the same words and without the value."""

import pytest

from server.app import create_app
from server.settings import SettingsError, load
from tests.support.command import NO_REDIS, call, run

SECRET = "hunter2"
POSTGRES = f"postgresql://u:{SECRET}@127.0.0.1:1/books"
REDIS = f"redis://:{SECRET}@127.0.0.1:1/0"
COMMANDS = (("config",), ("migrate",), ("keys", "list"), ("audit",), ("doctor",), ("background",))
NO_OPTION = "redis_url: an option after its ? is unknown or has an invalid value"
NO_RATE = "a rate is 1 to 1000000 and /s, /min, /h or /day"

REFUSED = [
    pytest.param({"rate": "100/m"}, f"rate: {NO_RATE}", id="a rate"),
    pytest.param({"ledger_rate": "fast"}, f"ledger_rate: {NO_RATE}", id="a ledger's rate"),
    pytest.param({"auth_failure_rate": "0/s"}, f"auth_failure_rate: {NO_RATE}", id="a rate of failures"),
    pytest.param({"rate": "1/day", "burst": "1000000"}, "burst: too large for so slow a rate", id="a burst"),
    pytest.param(
        {"trusted_proxies": "10.0.0.0/8,proxy"},
        "trusted_proxies: 'proxy' does not appear to be an IPv4 or IPv6 network",
        id="a proxy",
    ),
    pytest.param(
        {"cors_origins": "*"},
        "cors_origins: * is not taken: name each origin whose pages may read answers",
        id="origins",
    ),
    pytest.param({"redis_url": f"{REDIS}?foo=bar"}, NO_OPTION, id="an option of Redis"),
    pytest.param({"redis_url": f"{REDIS}?cluster=true&foo=bar"}, NO_OPTION, id="an option of a cluster"),
    pytest.param({"redis_url": f"{REDIS}?socket_timeout={SECRET}"}, NO_OPTION, id="an option's value"),
    pytest.param(
        {"redis_url": f"rediss://:{SECRET}@127.0.0.1:1/0?ssl_cert_reqs={SECRET}"}, NO_OPTION, id="an option of TLS"
    ),
    pytest.param(
        {"database_url": f"{POSTGRES}?sslmode={SECRET}"},
        "database_url: sslmode is one of disable, allow, prefer, require, verify-ca, verify-full",
        id="an option of Postgres",
    ),
    pytest.param(
        {"database_url": f"postgresql:///books?port={SECRET}"}, "database_url: a port is 1 to 65535", id="a port"
    ),
    pytest.param({"database_url": f"postgresql://u:{SECRET}@:1,:2,/x"}, "database_url: a host has no name", id="hosts"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
async def test_refused_by_every_command(settings: dict[str, str], sentence: str) -> None:
    """The sentence is the same, the exit code is 2, and nothing else is printed."""
    given = {"database_url": POSTGRES, "redis_url": NO_REDIS, **settings}
    for words in COMMANDS:
        assert await call(*words, **given) == (2, "", f"tallystick: {sentence}\n"), words


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
async def test_refused_by_a_worker(settings: dict[str, str], sentence: str) -> None:
    """What a worker is made of refuses them in the same words."""
    given = {"database_url": POSTGRES, "redis_url": NO_REDIS, **settings}
    loaded = load({f"TALLYSTICK_{name.upper()}": value for name, value in given.items()})
    with pytest.raises(SettingsError) as caught:
        async with create_app(loaded.settings):
            pass
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("settings", "sentence"), [REFUSED[0], REFUSED[-1]])
async def test_refused_by_serve(settings: dict[str, str], sentence: str) -> None:
    """`serve` ends with the sentence of the worker, and without the value."""
    given = {"database_url": POSTGRES, "redis_url": NO_REDIS, **settings}
    end = await run("serve", "--port", "0", **given)
    assert (end.code, end.out) == (2, "")
    # Before it are lines of the log.
    assert end.err.splitlines()[-1] == f"tallystick: {sentence}"
    assert SECRET not in end.err
    assert "Traceback" not in end.err


async def test_a_burst_without_its_rate() -> None:
    """A burst of ledgers without their rate would limit nothing: every command refuses it."""
    given = {"database_url": POSTGRES, "redis_url": NO_REDIS, "ledger_burst": "5"}
    for words in COMMANDS:
        end = await call(*words, **given)
        assert end == (2, "", "tallystick: ledger_burst: set ledger_rate too; without it ledgers have no limit\n")


@pytest.mark.parametrize("words", [("keys", "list"), ("migrate",), ("sinks", "list"), ("audit",)], ids=" ".join)
async def test_a_folder_beside_an_address(database_url: str, words: tuple[str, ...]) -> None:
    """A folder on the command line is not ignored because the environment names another database."""
    end = await call(*words, "--data-dir", "x", database_url=database_url)
    assert end == (
        2,
        "",
        "tallystick: --data-dir and TALLYSTICK_DATABASE_URL name two databases: do not give both\n",
    )
