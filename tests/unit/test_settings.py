"""Settings: every value has one source, unknown names are refused, and secrets are never shown."""

from pathlib import Path

import pytest

from server.cli import parser
from server.settings import HELP, Settings, SettingsError, load, shown

SECRET = "hunter2"


def test_defaults() -> None:
    """Without any settings, the defaults apply and are shown as such."""
    loaded = load({"PATH": "/bin", "TALLY": "x"})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


def test_every_setting_is_explained() -> None:
    """Each setting has a help text."""
    assert set(HELP) == set(Settings.__struct_fields__)


def test_environment() -> None:
    """Values are read from variables, numbers as numbers."""
    loaded = load({"TALLYSTICK_PORT": "9000", "TALLYSTICK_HOST": "::1"})
    assert (loaded.settings.port, loaded.settings.host) == (9000, "::1")
    assert loaded.sources["port"] == "TALLYSTICK_PORT"
    assert loaded.sources["data_dir"] == "default"


def test_command_line_comes_first() -> None:
    """The command line takes precedence over the environment for the settings that it names."""
    loaded = load({"TALLYSTICK_PORT": "9000", "TALLYSTICK_HOST": "::1"}, {"port": "9001", "host": None})
    assert (loaded.settings.port, loaded.settings.host) == (9001, "::1")
    assert (loaded.sources["port"], loaded.sources["host"]) == ("--port", "TALLYSTICK_HOST")


@pytest.mark.parametrize(
    ("words", "value", "source"),
    [
        pytest.param([], True, "default", id="not named"),
        pytest.param(["--background"], True, "--background", id="on"),
        pytest.param(["--no-background"], False, "--no-background", id="off"),
    ],
)
def test_a_setting_that_is_on_or_off(words: list[str], value: bool, source: str) -> None:
    """On the command line such a setting is an option and its opposite; in the environment it is true or false."""
    loaded = load({}, {"background": parser().parse_args(["serve", *words]).background})
    assert (loaded.settings.background, loaded.sources["background"]) == (value, source)
    assert load({"TALLYSTICK_BACKGROUND": str(value).lower()}).settings.background is value
    with pytest.raises(SettingsError, match="background cannot have the value given by TALLYSTICK_BACKGROUND"):
        load({"TALLYSTICK_BACKGROUND": "perhaps"})


def test_file(tmp_path: Path) -> None:
    """A variable that ends in _FILE names a file with the value; white space around the value does not count."""
    path = tmp_path / "url"
    path.write_text(f"\n postgresql://u:{SECRET}@db/books\n")
    loaded = load({"TALLYSTICK_DATABASE_URL_FILE": str(path)})
    assert loaded.settings.database_url == f"postgresql://u:{SECRET}@db/books"
    assert loaded.sources["database_url"] == f"TALLYSTICK_DATABASE_URL_FILE={path}"
    assert load({"TALLYSTICK_DATABASE_URL_FILE": str(path)}, {"database_url": "postgres://other"}).settings == Settings(
        database_url="postgres://other"
    )


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param("TALLYSTICK_PROT", id="a slip"),
        pytest.param("TALLYSTICK_", id="no name"),
        pytest.param("TALLYSTICK_FILE", id="no name before _FILE"),
        pytest.param("TALLYSTICK_PROT_FILE", id="a slip before _FILE"),
        pytest.param("TALLYSTICK_PORT_FILE_FILE", id="_FILE twice"),
    ],
)
def test_unknown(variable: str) -> None:
    """A variable with our prefix that is no setting is refused; the message lists the settings and shows no value."""
    with pytest.raises(SettingsError, match=f"unknown setting {variable};") as caught:
        load({variable: SECRET})
    assert "TALLYSTICK_PORT" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_given_twice(tmp_path: Path) -> None:
    """A value and a file for the same setting are refused, in either order."""
    path = tmp_path / "host"
    path.write_text("::1")
    text = f"host is set twice: by TALLYSTICK_HOST and by TALLYSTICK_HOST_FILE={path}"
    for order in (1, -1):
        variables = [("TALLYSTICK_HOST", "::1"), ("TALLYSTICK_HOST_FILE", str(path))][::order]
        with pytest.raises(SettingsError) as caught:
            load(dict(variables))
        assert str(caught.value) == text


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing, a directory or not text is refused by the variable's name."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent", tmp_path, binary):
        with pytest.raises(SettingsError, match=r"^TALLYSTICK_HOST_FILE: the file cannot be read: "):
            load({"TALLYSTICK_HOST_FILE": str(path)})


EMPTY = pytest.mark.parametrize("empty", ["", "  ", "\n"], ids=["nothing", "blanks", "a line feed"])
EACH = pytest.mark.parametrize("name", Settings.__struct_fields__)


@EMPTY
@EACH
def test_an_empty_variable(name: str, empty: str) -> None:
    """For every setting, an empty variable counts as not set, so that the file or the command line is used."""
    for variable in (f"TALLYSTICK_{name.upper()}", f"TALLYSTICK_{name.upper()}_FILE"):
        loaded = load({variable: empty})
        assert loaded.settings == Settings()
        assert loaded.sources[name] == "default"


@EMPTY
@EACH
def test_an_empty_file(tmp_path: Path, name: str, empty: str) -> None:
    """For every setting, an empty file is refused as a mistake."""
    path = tmp_path / "value"
    path.write_text(empty)
    variable = f"TALLYSTICK_{name.upper()}_FILE"
    with pytest.raises(SettingsError, match=f"^{variable}: the file is empty$"):
        load({variable: str(path)})


@EMPTY
@EACH
def test_an_empty_argument(name: str, empty: str) -> None:
    """An empty argument of the command line is refused too."""
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} is empty: leave it out for the default$"):
        load({}, {name: empty})


def test_empty_beside_a_value(tmp_path: Path) -> None:
    """An empty variable beside a value does not count as a second value."""
    path = tmp_path / "host"
    path.write_text("::1")
    loaded = load({"TALLYSTICK_HOST": "", "TALLYSTICK_HOST_FILE": str(path)})
    assert loaded.settings.host == "::1"
    assert load({"TALLYSTICK_HOST": "::1", "TALLYSTICK_HOST_FILE": ""}).settings.host == "::1"
    with pytest.raises(SettingsError, match="unknown setting TALLYSTICK_PROT;"):
        load({"TALLYSTICK_PROT": ""})


@EACH
def test_not_utf_8(name: str) -> None:
    """A value that is not valid UTF-8 is refused by its name."""
    variable = f"TALLYSTICK_{name.upper()}"
    for given in (variable, f"{variable}_FILE"):
        with pytest.raises(SettingsError, match=f"^{given} is not UTF-8$"):
            load({given: "gr\udcf6\udcdfe"})
    with pytest.raises(SettingsError, match=r"is not UTF-8$"):
        load({}, {name: "gr\udcf6\udcdfe"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TALLYSTICK_PORT", "tcp://10.0.0.1:80"),
        ("TALLYSTICK_ADMIN_PORT", "tcp://10.0.0.1:8081"),
        ("TALLYSTICK_SERVICE_HOST", "10.0.0.1"),
        ("TALLYSTICK_SERVICE_PORT", "80"),
        ("TALLYSTICK_SERVICE_PORT_HTTP", "80"),
        ("TALLYSTICK_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("TALLYSTICK_PORT_80_TCP_PROTO", "tcp"),
        ("TALLYSTICK_PORT_80_TCP_PORT", "80"),
        ("TALLYSTICK_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("TALLYSTICK_EU_SERVICE_HOST", "10.0.0.1"),
        ("TALLYSTICK_EU_PORT", "udp://10.0.0.1:53"),
    ],
)
def test_kubernetes_service_links(variable: str, value: str) -> None:
    """The variables that Kubernetes sets for a Service of our name are recognised, and the message says what to do."""
    with pytest.raises(
        SettingsError, match=rf"^{variable} is one of the variables that Kubernetes sets .*`enableServiceLinks: false`"
    ):
        load({variable: value})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        pytest.param("port", "65536", "Expected int <= 65535", id="a port above all"),
        pytest.param("port", "-1", "Expected int >= 0", id="a port below zero"),
        pytest.param("port", "http", "Expected int", id="a port by name"),
        pytest.param("posting_connections", "0", "Expected int >= 1", id="no connections"),
        pytest.param("reading_connections", "101", "Expected int <= 100", id="too many connections"),
        pytest.param("log_level", "loud", "debug, info, warning or error", id="a level there is not"),
        pytest.param("log_level", "info\n", "debug, info, warning or error", id="a level with a line feed"),
        *[
            pytest.param("failpoints", value, "NAME=kill|raise|stall[@N]", id=f"failpoint {number}")
            for number, value in enumerate(
                ["posting", "posting.sent=sleep", "posting.nowhere=kill", "posting.sent=kill@0", "posting.sent=kill,x"]
            )
        ],
        *[
            pytest.param("database_url", value, "postgresql://user:password@host:port/database", id=f"address {number}")
            for number, value in enumerate(
                [
                    "host=db password=hunter2",
                    "mysql://u:hunter2@db/books",
                    "postgresql://u:hunter2@db:port/books",
                    "postgresql://u:hun/hunter2@db/books",
                    "postgresql://u:hunter2@db:123456/books",
                    "postgresql://u:hunter2@[::1/books",
                    "postgresql://u:hunter2@db/books#x",
                ]
            )
        ],
        *[
            pytest.param("redis_url", value, "redis://, rediss:// or unix://", id=f"redis address {number}")
            for number, value in enumerate(
                ["hunter2", "http://cache", "redis://:hunter2@cache:port", "redis://cache/one", "unix://sock"]
            )
        ],
    ],
)
def test_bad_values(name: str, value: str, text: str) -> None:
    """
    An invalid value is refused; the message names the setting, its source and the expected form, and shows no secret.
    """
    variable = f"TALLYSTICK_{name.upper()}"
    with pytest.raises(SettingsError) as caught:
        load({variable: value})
    message = str(caught.value)
    assert message.startswith(f"{name} cannot have the value given by {variable}.")
    assert text in message
    assert SECRET not in message
    with pytest.raises(SettingsError, match=rf"given by --{name.replace('_', '-')}\."):
        load({}, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "postgresql://"),
        ("database_url", "postgres://u:p%2Fq@db:5432/books?sslmode=require"),
        ("database_url", "postgresql://u@a:5432,b:5433,[::1]:5434/books?target_session_attrs=read-write"),
        ("database_url", "postgresql://postgres@/tallystick?host=/tmp/x/run&port=5432"),
        ("failpoints", ""),
        ("failpoints", "posting.before_batch=stall, posting.committed=kill@3"),
        ("redis_url", "redis://cache"),
        ("redis_url", "rediss://u:p@cache:6380/1?health_check_interval=5"),
        ("redis_url", "redis://[::1]:6379"),
        ("redis_url", "unix:///tmp/x%20y/valkey.sock"),
    ],
)
def test_good_values(name: str, value: str) -> None:
    """Addresses that the drivers accept are accepted, and so are existing failpoints."""
    assert getattr(load({f"TALLYSTICK_{name.upper()}": value}).settings, name) == value


def test_shown() -> None:
    """Every setting is shown with its source, and secrets only as set or not set."""
    variables = {
        "TALLYSTICK_DATABASE_URL": f"postgresql://u:{SECRET}@db/books",
        "TALLYSTICK_REDIS_URL": f"redis://:{SECRET}@cache",
        "TALLYSTICK_LOG_LEVEL": "debug",
    }
    rows = {name: (value, source) for name, value, source in shown(load(variables, {"port": "0"}))}
    assert list(rows) == list(Settings.__struct_fields__)
    assert SECRET not in str(rows)
    assert rows["database_url"] == ("********", "TALLYSTICK_DATABASE_URL")
    assert rows["redis_url"] == ("********", "TALLYSTICK_REDIS_URL")
    assert rows["log_level"] == ("debug", "TALLYSTICK_LOG_LEVEL")
    assert rows["port"] == ("0", "--port")
    assert {name: value for name, value, _ in shown(load({}))}["database_url"] == ""
