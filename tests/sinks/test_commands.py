"""`tallystick sinks`: what it refuses and why, and what it shows."""

import orjson
import pytest

from server.events.sinks.store import SINKS_MAX
from tests.sinks.steps import sinks
from tests.support.command import NO_REDIS, call
from tests.support.postgres import administer
from tests.support.service import Service, make_key

KAFKA = ("create", "kafka", "--name", "sink", "--bootstrap", "one:9092,two:9092", "--topic", "events")
RABBIT = ("create", "rabbitmq", "--name", "sink", "--url", "amqp://broker:5672/books", "--exchange", "events")
SECRET = "hunter2"

REFUSED = [
    pytest.param((*KAFKA, "--bootstrap", "one"), "--bootstrap: brokers", id="a broker without a port"),
    pytest.param((*KAFKA, "--topic", "a b"), "--topic: topic of letters", id="a topic with a blank"),
    pytest.param((*KAFKA, "--sasl", "GSSAPI"), "--sasl: how the password", id="a mechanism there is not"),
    pytest.param((*KAFKA, "--sasl", "PLAIN"), "--sasl belongs to --username", id="a mechanism without a password"),
    pytest.param((*KAFKA, "--username", "x", "--password-env", "P"), "--sasl belongs", id="a password without one"),
    pytest.param((*KAFKA, "--username", "x"), "--username and a password belong", id="a name without a password"),
    pytest.param(
        (*KAFKA, "--username", "x", "--password-env", "P", "--password-file", "f"),
        "in a variable or in a file",
        id="two passwords",
    ),
    pytest.param(
        (*KAFKA, "--username", "x", "--password-env", "TALLYSTICK_P"), "are settings", id="a variable of settings"
    ),
    pytest.param((*KAFKA, "--ca-file", "x"), "certificates need a connection by TLS", id="certificates without TLS"),
    pytest.param((*KAFKA, "--tls", "--key-file", "x"), "--cert-file and --key-file belong", id="half a certificate"),
    pytest.param((*RABBIT, "--url", f"amqp://u:{SECRET}@b/"), "--url: amqp://HOST", id="a password in an address"),
    pytest.param((*RABBIT, "--url", "http://broker/"), "--url: amqp://HOST", id="another protocol"),
    pytest.param((*RABBIT, "--exchange", ""), "--exchange: topic exchange", id="no exchange"),
    pytest.param((*RABBIT, "--name", "a/b"), "a sink's name has", id="a name that is none"),
    pytest.param((*RABBIT, "--ledger", "nowhere"), "there is no ledger nowhere", id="a ledger there is not"),
    pytest.param((*RABBIT, "--ledger", "a/b"), "a ledger's name has", id="a ledger that can be none"),
    pytest.param(("pause", "none"), "there is no sink none", id="pausing what is not there"),
    pytest.param(("resume", "none"), "there is no sink none", id="resuming what is not there"),
    pytest.param(("delete", "none"), "there is no sink none", id="removing what is not there"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED)
async def test_refused(own: Service, words: tuple[str, ...], text: str) -> None:
    """A refusal says why, shows no possible secret, and makes no sink."""
    said = await sinks(own, *words, code=2)
    assert text in said
    assert SECRET not in said
    assert await sinks(own, "list", "--json") == "[]\n"


async def test_shown(own: Service) -> None:
    """Lists and states are shown for people and for programs; of a password only where it is kept."""
    await make_key(own.database_url, "books")
    await sinks(own, *RABBIT, "--name", "rabbit", "--ledger", "books")
    await sinks(own, *KAFKA, "--tls", "--sasl", "PLAIN", "--username", "me", "--password-env", "P", "--name", "kafka")
    assert "there is a sink kafka" in await sinks(own, *KAFKA, "--name", "kafka", code=2)
    await sinks(own, "pause", "rabbit")
    listed = orjson.loads(await sinks(own, "list", "--json"))
    for row in listed:
        assert row.pop("created").endswith("Z")
    assert listed == [
        {
            "name": "kafka",
            "kind": "kafka",
            "ledger": None,
            "state": "running",
            "target": "events at one:9092,two:9092",
            "options": {
                "username": "me",
                "password_env": "P",
                "bootstrap": "one:9092,two:9092",
                "topic": "events",
                "tls": True,
                "sasl": "PLAIN",
            },
        },
        {
            "name": "rabbit",
            "kind": "rabbitmq",
            "ledger": "books",
            "state": "paused",
            "target": "events at amqp://broker:5672/books",
            "options": {"url": "amqp://broker:5672/books", "exchange": "events"},
        },
    ]
    lines = (await sinks(own, "list")).splitlines()
    assert lines[0].split() == ["NAME", "KIND", "LEDGER", "STATE", "CREATED", "TARGET"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["kafka", "kafka", "-", "running"],
        ["rabbit", "rabbitmq", "books", "paused"],
    ]
    assert (await sinks(own, "status")).splitlines()[1].split() == ["kafka", "running", "0", "0.0", "-", "-", "-", "-"]
    assert await sinks(own, "resume", "rabbit", "--skip") == "nothing was refused\n"


async def test_no_more_than_can_be_served(own: Service) -> None:
    """There can be only so many sinks."""
    await administer(
        own.database_url,
        "INSERT INTO tallystick.sinks (name, kind, options)"
        " SELECT 'sink-' || n, 'kafka', '{}' FROM generate_series(1, $1::bigint) AS n",
        SINKS_MAX,
    )
    assert f"there are {SINKS_MAX} sinks" in await sinks(own, *KAFKA, code=2)


async def test_before_the_migration(postgres_url: str) -> None:
    """For a database without a schema, the command says to run `migrate`."""
    end = await call("sinks", "list", database_url=postgres_url, redis_url=NO_REDIS)
    assert end.code == 2
    assert "run `tallystick migrate`" in end.err
