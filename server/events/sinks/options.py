"""The options of a sink's broker: what `tallystick sinks create` takes, and what is stored of it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

from server.settings import PREFIX

_HOST: Final = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
# 1 to 65535.
_PORT: Final = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ADDRESS: Final = rf"{_HOST}:{_PORT}"


# A file on the machines where background processes run.
_File = Annotated[str, Meta(min_length=1, max_length=1_000)]


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all kinds have in common. Each field is an argument of the command line, with its description."""

    username: Annotated[str, Meta(min_length=1, max_length=255, description="name to authenticate with")] | None = None
    password_env: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z",
                description="environment variable of the background process that holds the password",
            ),
        ]
        | None
    ) = None
    password_file: Annotated[_File, Meta(description="file that holds the password, read at each connect")] | None = (
        None
    )
    ca_file: (
        Annotated[_File, Meta(description="certificates to check the broker's with (default: the system's)")] | None
    ) = None
    cert_file: Annotated[_File, Meta(description="certificate to authenticate with")] | None = None
    key_file: Annotated[_File, Meta(description="key of that certificate")] | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the connection is by TLS."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """Where events go, as a person is shown it."""
        raise NotImplementedError

    @property
    def has_password(self) -> bool:
        """Whether it is said where the password is."""
        return self.password_env is not None or self.password_file is not None

    def __post_init__(self) -> None:
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("the password is in a variable or in a file: name one of them")
        if self.has_password != (self.username is not None):
            raise ValueError("--username and a password belong together")
        if self.password_env is not None and self.password_env.startswith(PREFIX):
            raise ValueError(f"variables with the prefix {PREFIX} are settings: give the password's another name")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("--cert-file and --key-file belong together")
        if not self.encrypted and (self.ca_file is not None or self.cert_file is not None):
            raise ValueError("certificates need a connection by TLS")


class KafkaOptions(Options, frozen=True, kw_only=True, omit_defaults=True):
    """A topic of Kafka."""

    bootstrap: Annotated[
        str,
        Meta(
            pattern=rf"^{_ADDRESS}(?:,{_ADDRESS}){{0,15}}\Z",
            description="brokers that are asked first, as HOST:PORT,...",
        ),
    ]
    topic: Annotated[
        str, Meta(pattern=r"^(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}\Z", description="topic of letters, digits, . _ and -")
    ]
    tls: Annotated[bool, Meta(description="connect by TLS")] = False
    sasl: (
        Annotated[
            Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
            Meta(description="how the password is given: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        ]
        | None
    ) = None

    @property
    def encrypted(self) -> bool:
        """Whether the connection is by TLS."""
        return self.tls

    @property
    def target(self) -> str:
        """Where events go, as a person is shown it."""
        return f"{self.topic} at {self.bootstrap}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.has_password != (self.sasl is not None):
            raise ValueError("--sasl belongs to --username and a password")


class RabbitOptions(Options, frozen=True, kw_only=True, omit_defaults=True):
    """An exchange of RabbitMQ."""

    url: Annotated[
        str,
        Meta(
            pattern=rf"^amqps?://{_HOST}(?::{_PORT})?(?:/[^/?#@]{{0,255}})?\Z",
            description="amqp://HOST:PORT/VHOST, or amqps:// for TLS, without a user",
        ),
    ]
    exchange: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9:._-]{1,200}\Z", description="topic exchange, made durable where there is none")
    ]

    @property
    def encrypted(self) -> bool:
        """Whether the connection is by TLS."""
        return self.url.startswith("amqps:")

    @property
    def target(self) -> str:
        """Where events go, as a person is shown it."""
        return f"{self.exchange} at {self.url}"


# All kinds of sinks.
KINDS: Final[Mapping[str, type[Options]]] = {"kafka": KafkaOptions, "rabbitmq": RabbitOptions}


class Argument(NamedTuple):
    """An argument of the command line, made of a field of options."""

    name: str
    help: str
    required: bool
    # Whether it takes no value.
    flag: bool

    @property
    def word(self) -> str:
        """The argument as it is written."""
        return f"--{self.name.replace('_', '-')}"


def arguments(kind: str) -> Iterator[Argument]:
    """Yield the arguments of a kind, its own before those of all kinds."""
    options = KINDS[kind]
    hints = get_type_hints(options, include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(options)}
    for name in sorted(fields, key=Options.__struct_fields__.__contains__):
        hint = next(part for part in (hints[name], *get_args(hints[name])) if hasattr(part, "__metadata__"))
        description = hint.__metadata__[-1].description
        yield Argument(name, description, fields[name].required, hint.__origin__ is bool)


def read_options(kind: str, given: Mapping[str, Any]) -> Options:
    """
    Return the options that a command line gives; None counts as not given.

    Raises:
        ValueError: They are not valid. The message repeats no value, which may be a secret in the wrong place.
    """
    known = {argument.name: argument for argument in arguments(kind)}
    try:
        return msgspec.convert({name: given[name] for name in known if given[name] is not None}, KINDS[kind])
    except msgspec.ValidationError as error:
        text, _, name = str(error).replace("`", "").partition(" - at $.")
        raise ValueError(f"{known[name].word}: {known[name].help}" if name else text) from None
