"""The arguments of `tallystick sinks`."""

from collections.abc import Sequence

from server.cli.words import Commands, Parser, Run, listing


def add_commands(commands: Commands, place: Parser, run: Run, words: Sequence[str] | None = None) -> None:
    """Add the commands; the kinds of sinks, which take long to load, only if *words* name `sinks`."""
    actions = commands.group("sinks", "set up brokers that receive every event, and see how far behind they are")
    kinds = actions.group("create", "create a sink, which is sent events within a second", "KIND")
    if words is None or "sinks" in words:
        _add_kinds(kinds, place, run)
    actions.add("list", "list sinks and their targets", run, place, listing())
    actions.add("status", "show how far behind sinks are, and their errors", run, place, listing())
    for name, text in (
        ("pause", "stop sending to a sink, within a second, until it is resumed; it keeps its place"),
        ("resume", "send events to a sink again, from its place on"),
        ("delete", "remove a sink and its place"),
    ):
        action = actions.add(name, text, run, place)
        action.add_argument("name", metavar="NAME", help="name of the sink")
        if name == "resume":
            action.add_argument("--skip", action="store_true", help="skip the event that its broker refused")


def _add_kinds(kinds: Commands, place: Parser, run: Run) -> None:
    from server.events.sinks.options import KINDS, arguments

    for kind, options in KINDS.items():
        described = options.__doc__ or ""
        action = kinds.add(kind, f"a sink that is {described[0].lower()}{described[1:-1]}", run, place)
        action.add_argument("--name", required=True, help="what the sink is called in other commands and in metrics")
        action.add_argument("--ledger", help="name of the ledger whose events are sent to it (default: all ledgers)")
        text = "begin with new events only, or with the first event (default: now)"
        action.add_argument("--from-position", choices=["now", "start"], default="now", help=text)
        for argument in arguments(kind):
            if argument.flag:
                action.add_argument(argument.word, action="store_true", default=None, help=argument.help)
            else:
                action.add_argument(argument.word, required=argument.required, help=argument.help)
