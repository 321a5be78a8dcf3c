"""Settings: what can be set, where each value came from, and which of them are secrets."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

PREFIX: Final = "TALLYSTICK_"
# `TALLYSTICK_X_FILE` names a file that holds the value of X: how orchestrators hand over secrets.
FILE_SUFFIX: Final = "_FILE"
# Bytes read of such a file.
FILE_MAX_BYTES: Final = 64 * 1024

# Checked here, because a driver's message about a malformed address can hold a piece of the password.
_HOST = r"(?:[^/?#@:,\[\]]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
POSTGRES_URL: Final = rf"^postgres(?:ql)?://(?:[^/?#@]*@)?{_HOST}(?:,{_HOST})*(?:/[^/?#]*)?(?:\?[^#]*)?\Z"
REDIS_URL: Final = rf"^(?:rediss?://(?:[^/?#@]*@)?{_HOST}(?:/[0-9]*)?|unix://(?:[^/?#@]*@)?/[^?#]+)(?:\?[^#]*)?\Z"

# Without user and password: this setting is not secret, so it is shown.
COLLECTOR_URL: Final = rf"^https?://{_HOST}(?:/[^?#@]*)?\Z"

# Keys of Fernet: 32 bytes each.
FERNET_KEYS: Final = r"^[A-Za-z0-9_-]{43}=(?:,[A-Za-z0-9_-]{43}=)*\Z"

# Too long to be guessed, and without characters that a URL would have to escape.
CONSOLE_TOKEN: Final = r"^[A-Za-z0-9_-]{32,128}\Z"  # noqa: S105 -- the form of one

# Where a process can be told to fail on purpose, and the form of the setting that tells it.
POSTING_FAILPOINTS: Final = ("posting.before_batch", "posting.sent", "posting.committed")
FAILPOINT_NAMES: Final = (
    *POSTING_FAILPOINTS,
    *("relay.before", "relay.committed", "webhooks.answered", "webhooks.recorded"),
    *("sinks.before_batch", "sinks.confirmed", "sinks.stored"),
)
_POINT = rf"\s*(?:{'|'.join(map(re.escape, FAILPOINT_NAMES))})=(?:kill|raise|stall)(?:@[1-9][0-9]*)?\s*"
FAILPOINTS: Final = rf"^(?:{_POINT}(?:,{_POINT})*)?\Z"

# Settings of commands that call a server, read from the environment; the service itself ignores them.
CLIENT_VARIABLES: Final = ("url", "api_key")

# Kubernetes sets such variables in each pod for every Service of its namespace; a Service `tallystick` has our prefix.
_SERVICE_LINK: Final = re.compile(r"(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.*)?)")
_SERVICE_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://.*")

# Each worker needs a share of a processor and of Postgres's connections; for more than this, use more machines.
WORKERS_MAX: Final = 64
WORKERS: Final = r"^(?:auto|[1-9]|[1-5][0-9]|6[0-4])\Z"

Port = Annotated[int, Meta(ge=0, le=65_535)]
Connections = Annotated[int, Meta(ge=1, le=100)]


class SettingsError(Exception):
    """A setting is unknown or has an invalid value."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of the service. Each is read from `TALLYSTICK_` and its name in capitals."""

    host: str = "127.0.0.1"
    port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8081
    workers: Annotated[str, Meta(pattern=WORKERS)] = "auto"
    background: bool = True
    console: bool = True
    console_token: Annotated[str, Meta(pattern=CONSOLE_TOKEN)] | None = None
    data_dir: str = "data"
    database_url: Annotated[str, Meta(pattern=POSTGRES_URL)] | None = None
    redis_url: Annotated[str, Meta(pattern=REDIS_URL)] | None = None
    redis_timeout_ms: Annotated[int, Meta(ge=5, le=10_000)] = 50
    replay_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 300
    posting_connections: Connections = 4
    reading_connections: Connections = 4
    rate: str = "1000/s"
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 2_000
    ledger_rate: str | None = None
    ledger_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    auth_failure_rate: str = "10/s"
    auth_failure_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    anonymous_rate: str = "50/s"
    anonymous_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    trusted_proxies: str = ""
    cors_origins: str = ""
    webhook_key: Annotated[str, Meta(pattern=FERNET_KEYS)] | None = None
    webhook_private_networks: str = ""
    log_level: Annotated[str, Meta(pattern=r"^(debug|info|warning|error)\Z")] = "info"
    slow_ms: Annotated[int, Meta(ge=1, le=60_000)] = 1_000
    log_sample: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    otel_endpoint: Annotated[str, Meta(pattern=COLLECTOR_URL)] | None = None
    otel_sample: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 100
    failpoints: Annotated[str, Meta(pattern=FAILPOINTS)] = ""


class Help(NamedTuple):
    """What a setting is for."""

    text: str
    secret: bool = False


HELP: Final[Mapping[str, Help]] = {
    "host": Help("Address to listen on."),
    "port": Help("TCP port to listen on; 0 picks a free one."),
    "admin_host": Help("Address of the admin port, for operators; requests there need no key, so keep it private."),
    "admin_port": Help("TCP port of /livez and /readyz of the whole server, for operators; 0 picks a free one."),
    "workers": Help(f"Worker processes: 1 to {WORKERS_MAX}, or auto for one per usable processor."),
    "background": Help(
        "Whether `serve` runs a background process beside the workers: true, or false if `tallystick background` runs "
        "elsewhere."
    ),
    "console": Help("Whether operators have a console in the browser, at /console on the admin port: true or false."),
    "console_token": Help(
        "Token of the console: 32 to 128 letters, digits, - and _. If it is not set, `serve` makes a new one at each "
        "start and prints it on a terminal, or else writes it to console.token in the folder of the embedded servers. "
        "With neither a terminal nor embedded servers there is no console.",
        secret=True,
    ),
    "data_dir": Help("Folder of the embedded servers, used when an address below is not set."),
    "database_url": Help(
        "Address of PostgreSQL: postgresql://user:password@host:port/database, with special characters as %XX; for "
        "failover, name several hosts and add ?target_session_attrs=read-write.",
        secret=True,
    ),
    "redis_url": Help(
        "Address of Redis or Valkey: redis://, rediss:// or unix://; add ?cluster=true for a cluster.", secret=True
    ),
    "redis_timeout_ms": Help("Milliseconds that Redis has to answer; after that a request goes on without it."),
    "replay_seconds": Help(
        "Seconds for which Redis keeps the answers of finished transfers for retries; PostgreSQL keeps them for ever."
    ),
    "posting_connections": Help("Connections to PostgreSQL for posting transfers, per worker."),
    "reading_connections": Help("Connections to PostgreSQL for reading, per worker."),
    "rate": Help("Requests that a key without a limit of its own may make: N/s, N/min, N/h or N/day."),
    "burst": Help("Requests that a key without a limit of its own may make at once."),
    "ledger_rate": Help(
        "Requests that all keys of a ledger may make together: N/s, N/min, N/h or N/day; no limit if not set."
    ),
    "ledger_burst": Help("Requests that all keys of a ledger may make together at once; only with ledger_rate."),
    "concurrency": Help("Requests that one key may have running at once in one worker."),
    "auth_failure_rate": Help("Failed authentications allowed per network address: N/s, N/min, N/h or N/day."),
    "auth_failure_burst": Help("Failed authentications allowed per network address at once."),
    "anonymous_rate": Help(
        "Other requests without a key allowed per network address, except for health: N/s, N/min, N/h or N/day."
    ),
    "anonymous_burst": Help("Other requests without a key allowed per network address at once."),
    "trusted_proxies": Help(
        "Proxies whose X-Forwarded-For is trusted: addresses and networks such as 10.0.0.0/8, separated by commas."
    ),
    "cors_origins": Help(
        "Origins whose pages may read answers, such as https://app.example.com, separated by commas; * is not allowed."
    ),
    "webhook_key": Help(
        "Keys for encrypting the secrets of webhooks, each 32 bytes in URL-safe base64, separated by commas: the first "
        "encrypts, all decrypt. The embedded servers have one; without one there are no webhooks.",
        secret=True,
    ),
    "webhook_private_networks": Help(
        "Networks outside the public internet that may still be sent webhooks, even without TLS: addresses and "
        "networks such as 10.0.0.0/8, separated by commas."
    ),
    "log_level": Help("Lowest level that is logged: debug, info, warning or error."),
    "slow_ms": Help(
        "A request, or a statement in PostgreSQL, is logged if it takes longer than this many milliseconds."
    ),
    "log_sample": Help("One in this many of the other requests is logged too; 0 for none."),
    "otel_endpoint": Help(
        "Address of a collector that takes traces by OTLP over HTTP, such as http://localhost:4318; no traces if not "
        "set. Needs the packages of tallystick[otel]."
    ),
    "otel_sample": Help("One in this many requests without a traceparent is traced; 0 for none."),
    "failpoints": Help(
        "For tests only: where this process fails on purpose, as NAME=kill|raise|stall[@N],...; "
        f"names are {', '.join(FAILPOINT_NAMES)}."
    ),
}


class Loaded(NamedTuple):
    """The settings and where each value came from: `default`, an environment variable, a file, or the command line."""

    settings: Settings
    sources: Mapping[str, str]


def load(environment: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None) -> Loaded:
    """
    Read the settings.

    An empty variable counts as not set, as `${X:-}` in a compose file gives it. An empty file or argument is refused as
    a mistake.

    Args:
        environment: Variables to read instead of the process's own.

        overrides: Values of the command line; None means not given.

    Raises:
        SettingsError: A variable with our prefix is unknown, sets a value a second time, or has an invalid value; or
            one is set that has no effect without another.
    """
    variables = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.__struct_fields__, "default")
    for variable in sorted(variables):
        if not variable.startswith(PREFIX):
            continue
        name, source, text = _read_variable(variable, variables[variable])
        if text is None:
            continue
        if name in values:
            raise SettingsError(f"{name} is set twice: by {sources[name]} and by {source}")
        values[name], sources[name] = text, source
    for name, value in (overrides or {}).items():
        if value is not None:
            source = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            if isinstance(value, str) and _text(value, source) is None:
                raise SettingsError(f"{source} is empty: leave it out for the default")
            values[name], sources[name] = value, source
    if "ledger_burst" in values and "ledger_rate" not in values:
        raise SettingsError("ledger_burst: set ledger_rate too; without it ledgers have no limit")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_refusal(str(error), sources)) from None
    return Loaded(settings, sources)


def _refusal(text: str, sources: Mapping[str, str]) -> str:
    """Return which setting has an invalid value and what it is for, but never the value, which may be a secret."""
    expected, _, name = text.replace("`", "").partition(" - at $.")
    # The purpose of a setting says more to a person than a pattern.
    expected = "" if "matching regex" in expected else f" {expected}."
    return f"{name} cannot have the value given by {sources[name]}.{expected} {HELP[name].text}"


def _read_variable(variable: str, text: str) -> tuple[str, str, str | None]:
    """Return name, source and text of the setting that an environment variable sets; no text if it is empty."""
    word = variable.removeprefix(PREFIX)
    name = word.lower()
    if name.removesuffix(FILE_SUFFIX.lower()) in CLIENT_VARIABLES:
        return name, variable, None
    if _SERVICE_LINK.fullmatch(word) or _SERVICE_ADDRESS.fullmatch(text):
        raise SettingsError(
            f"{variable} is one of the variables that Kubernetes sets for a Service whose name begins with tallystick: "
            "put `enableServiceLinks: false` into the pod's spec"
        )
    if name in Settings.__struct_fields__:
        return name, variable, _text(text, variable)
    file_name = name.removesuffix(FILE_SUFFIX.lower())
    if file_name != name and file_name in Settings.__struct_fields__:
        if (path := _text(text, variable)) is None:
            return file_name, variable, None
        return file_name, f"{variable}={path}", _read_file(variable, path)
    known = ", ".join(PREFIX + field.upper() for field in Settings.__struct_fields__)
    raise SettingsError(f"unknown setting {variable}; the settings are {known}, each also with {FILE_SUFFIX}")


def _read_file(variable: str, path: str) -> str:
    """Return the contents of the file that a variable names."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            found = file.read(FILE_MAX_BYTES).strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{variable}: the file cannot be read: {type(error).__name__}") from None
    if not found:
        raise SettingsError(f"{variable}: the file is empty")
    return found


def read_client_variable(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """
    Return the value of a variable of CLIENT_VARIABLES, or of the file that it names; None if it is not set.

    Raises:
        SettingsError: It is set twice, or its file cannot be read.
    """
    variables = os.environ if environment is None else environment
    variable = PREFIX + name.upper()
    text = _text(variables.get(variable, ""), variable)
    path = _text(variables.get(variable + FILE_SUFFIX, ""), variable + FILE_SUFFIX)
    if text is not None and path is not None:
        raise SettingsError(f"{name} is set twice: by {variable} and by {variable}{FILE_SUFFIX}")
    return text if path is None else _read_file(variable + FILE_SUFFIX, path)


def _text(text: str, source: str) -> str | None:
    """
    Return a value, or None if it is empty.

    Raises:
        SettingsError: The value is not UTF-8, so no other process could be given it as text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{source} is not UTF-8") from None
    return text if text.strip() else None


def shown(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return name, value and source of every setting, with secrets masked."""
    rows = []
    for name in Settings.__struct_fields__:
        value = getattr(loaded.settings, name)
        text = "" if value is None else str(value)
        rows.append((name, "********" if text and HELP[name].secret else text, loaded.sources[name]))
    return rows
