"""`tallystick webhook-endpoints`: manages the URLs that events are sent to."""

import argparse
from typing import TYPE_CHECKING, Any, Final

from server.cli.remote.arguments import add_rows, position, row, say_answers
from server.cli.remote.call import on_server, server
from server.cli.words import Commands
from server.process.commands.exits import check_room, shown_once
from server.process.commands.tables import Column, Row, say_listing, say_record

if TYPE_CHECKING:
    from tallystick_client import Tallystick, WebhookEndpoint


def _types(endpoint: Row) -> str:
    return ",".join(endpoint["types"]) or "all"


LISTED: Final = (
    Column("id"),
    Column("state"),
    Column("position", right=True),
    Column("types", show=_types),
    Column("url"),
    Column("description"),
)
SHOWN: Final = (*LISTED, Column("disabled_reason"), Column("created_at"))
DELIVERIES: Final = (
    Column("position", right=True),
    Column("type"),
    Column("attempt", right=True),
    Column("outcome"),
    Column("status"),
    Column("attempted_at"),
    Column("duration_ms", right=True),
    Column("error"),
    Column("answer"),
)
TESTED: Final = tuple(map(Column, ("delivered", "status", "error", "duration_ms", "answer")))
UNDELIVERED: Final = (
    Column("position", right=True),
    Column("state"),
    Column("attempts", right=True),
    Column("attempted_at"),
    Column("next_attempt_at"),
)


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.group("webhook-endpoints", "set up URLs that events are sent to, on a server")
    actions.add("list", "list endpoints", on_server(_list), server())
    text = "create an endpoint, and show its signing secret, only this once"
    action = actions.add("create", text, on_server(_create), server())
    action.add_argument(
        "address", metavar="URL", help="address that events are posted to, such as https://example.com/hook"
    )
    _add_about(action, "all")
    action = actions.add("update", "change the named properties of an endpoint", on_server(_update), server())
    _add_id(action)
    action.add_argument("--to", metavar="URL", help="new address (default: unchanged)")
    _add_about(action, "unchanged")
    text = "whether events are sent to it; a disabled endpoint keeps its place (default: unchanged)"
    action.add_argument("--state", choices=["enabled", "disabled"], help=text)
    for name, text, run in (
        ("get", "show an endpoint", _get),
        ("delete", "remove an endpoint and all that is recorded about it", _delete),
        ("rotate-secret", "make and show a new secret; the old one also signs for 24 hours", _rotate_secret),
        ("test", "send a test event now, and show the outcome", _test),
    ):
        _add_id(actions.add(name, text, on_server(run), server()))
    action = actions.add("replay", "send all events from a position on again", on_server(_replay), server())
    _add_id(action)
    action.add_argument("position", type=position, metavar="POSITION", help="position of the first event to send again")
    for name, text, run in (
        ("deliveries", "list recent delivery attempts, newest first", _deliveries),
        ("undelivered", "list events that have not been delivered", _undelivered),
    ):
        action = actions.add(name, text, on_server(run), server())
        _add_id(action)
        add_rows(action)


def _add_id(action: argparse.ArgumentParser) -> None:
    action.add_argument("id", metavar="ENDPOINT", help="id of the endpoint, as the list shows it")


def _add_about(action: argparse.ArgumentParser, default: str) -> None:
    text = f"an event type to send, such as transfer.posted; may be given several times (default: {default})"
    action.add_argument("--type", action="append", metavar="TYPE", help=text)
    action.add_argument("--description", metavar="TEXT", help="what the endpoint is for")


def _list(client: "Tallystick", options: argparse.Namespace) -> int:
    say_listing(LISTED, map(_row, client.webhook_endpoints.list()), as_json=options.json)
    return 0


def _row(endpoint: "WebhookEndpoint") -> dict[str, Any]:
    """Return the members of an endpoint, without `secret` if there is none to show."""
    members = row(endpoint)
    if members["secret"] is None:
        del members["secret"]
    return members


def _say(endpoint: "WebhookEndpoint", options: argparse.Namespace) -> int:
    found = _row(endpoint)
    say_record((*SHOWN, Column("secret")) if "secret" in found else SHOWN, found, as_json=options.json)
    return 0


def _create(client: "Tallystick", options: argparse.Namespace) -> int:
    # Make nothing that could not be printed: the secret is shown only once.
    check_room()
    endpoints = client.webhook_endpoints
    made = endpoints.create(options.address, types=options.type or (), description=options.description)
    with shown_once("the new endpoint has been deleted", lambda: endpoints.delete(made.id)):
        return _say(made, options)


def _get(client: "Tallystick", options: argparse.Namespace) -> int:
    return _say(client.webhook_endpoints.get(options.id), options)


def _update(client: "Tallystick", options: argparse.Namespace) -> int:
    texts = {"url": options.to, "types": options.type, "description": options.description, "state": options.state}
    given = {name: value for name, value in texts.items() if value is not None}
    if not given:
        raise ValueError("name what to change: --to, --type, --description or --state")
    return _say(client.webhook_endpoints.update(options.id, **given), options)


def _delete(client: "Tallystick", options: argparse.Namespace) -> int:
    client.webhook_endpoints.delete(options.id)
    return 0


def _rotate_secret(client: "Tallystick", options: argparse.Namespace) -> int:
    check_room()
    rotated = client.webhook_endpoints.rotate_secret(options.id)
    with shown_once("nobody has seen the new secret; the old one also signs for 24 hours: rotate it again"):
        return _say(rotated, options)


def _test(client: "Tallystick", options: argparse.Namespace) -> int:
    say_record(TESTED, row(client.webhook_endpoints.test(options.id)), as_json=options.json)
    return 0


def _replay(client: "Tallystick", options: argparse.Namespace) -> int:
    return _say(client.webhook_endpoints.replay(options.id, options.position), options)


def _deliveries(client: "Tallystick", options: argparse.Namespace) -> int:
    say_answers(DELIVERIES, client.webhook_endpoints.deliveries(options.id), options)
    return 0


def _undelivered(client: "Tallystick", options: argparse.Namespace) -> int:
    say_answers(UNDELIVERED, client.webhook_endpoints.undelivered(options.id), options)
    return 0
