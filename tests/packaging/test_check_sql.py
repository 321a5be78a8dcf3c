"""
The SQL checks find each kind of mistake, and accept good SQL.
"""

from pathlib import Path

import pytest

from scripts.check_sql import check_tree

QUERY = "-- name: thing_read(id)\n-- One thing.\nSELECT * FROM things WHERE id = $1;\n"
SHARED = "\n-- columns: some\n-- $1 AS x, note\n\n-- name: thing_note(x)\n-- Notes.\nSELECT {some} FROM things;\n"
MIGRATION = """
-- A comment may say UNIQUE, LISTEN or SET x = 1.
CREATE TABLE things (
    id bigint,
    other bigint CONSTRAINT things_other_fkey REFERENCES others (id),
    note text DEFAULT 'PRIMARY KEY; SET x = 1; NOTIFY ''me''',
    CONSTRAINT things_pkey PRIMARY KEY (id),
    CONSTRAINT things_both_fkey FOREIGN KEY (id, other) REFERENCES others (a, b),
    CONSTRAINT things_note_check CHECK (note <> '')
);
CREATE UNIQUE INDEX things_other_unique ON things (other);
SET LOCAL lock_timeout = '1s';
UPDATE things SET note = '' WHERE id = 1;
"""
FUNCTION = """
CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    UPDATE things SET note = '' WHERE id = 1; -- SET is part of UPDATE
    PERFORM pg_advisory_xact_lock(1);
    PERFORM set_config('a.b', 'c', true);
END;
$$;
"""


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """
    A folder like sql/ with one good file of each kind.
    """
    for folder, name, text in (
        ("queries", "things.sql", QUERY + SHARED),
        ("migrations", "0001_things.sql", MIGRATION),
        ("functions", "f.sql", FUNCTION),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    return tmp_path


def found(sql: Path) -> list[str]:
    return [f"{finding.path.name}:{finding.line}: {finding.text}" for finding in check_tree(sql)]


def test_good_sql_passes(sql: Path) -> None:
    """
    Banned words in comments, in literals or with other meanings are accepted.
    """
    assert found(sql) == []


def test_an_empty_folder_is_a_finding(tmp_path: Path) -> None:
    """
    An empty folder is a finding.
    """
    assert found(tmp_path) == [f"{tmp_path.name}:1: no SQL files here"]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        pytest.param("SELECT 1;", "1: a statement without", id="a header is due"),
        pytest.param("SELECT 1;\n" + QUERY, "1: a statement without", id="before the first header"),
        pytest.param("-- name: read(id)\n", "1: the header is not", id="a name is noun and verb"),
        pytest.param("-- name: a_read(id,x)\n-- A.\nSELECT $1, $2", "1: a_read: arguments are", id="spacing"),
        pytest.param("-- name: a_read(id, id)\n-- A.\nSELECT $1, $2", "1: a_read: an argument", id="doubled"),
        pytest.param("-- name: a_read()\nSELECT 1", "1: a_read: the second line", id="a sentence is due"),
        pytest.param(
            "-- name: a_read()\n-- no sentence\nSELECT 1",
            "1: a_read: the second",
            id="one sentence",
        ),
        pytest.param("-- name: a_read()\n-- A.\n", "1: a_read: no statement", id="a body is due"),
        pytest.param(
            "-- name: a_read()\n-- A.\nSELECT 1; SELECT 2;",
            "1: a_read: more than one",
            id="only one",
        ),
        pytest.param("-- name: a_read(id)\n-- A.\nSELECT '$1'", "names 1 arguments", id="argument unused"),
        pytest.param("-- name: a_read(id)\n-- A.\nSELECT $1, $2", "uses $1, $2", id="parameter unnamed"),
        pytest.param("-- name: a_read(a, b)\n-- A.\nSELECT $2", "uses $2", id="a gap"),
        pytest.param(
            "-- columns: some\n-- $2 AS x\n\n-- name: a_read(id)\n-- A.\nSELECT $1, {some};",
            "uses $1, $2",
            id="parameter unnamed, of shared columns",
        ),
        pytest.param(QUERY + "\n" + QUERY, "1: thing_read stands in", id="a name is given once"),
    ],
)
def test_query_rules(sql: Path, text: str, finding: str) -> None:
    """
    A statement that the loader could not use as it is written is a finding.
    """
    (sql / "queries" / "things.sql").write_text(text)
    (only,) = found(sql)
    assert finding in only


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("LISTEN x;", id="listen"),
        pytest.param("SELECT pg_notify('x', 'y');", id="notify by function"),
        pytest.param("SELECT pg_advisory_lock(1);", id="session lock"),
        pytest.param("SELECT pg_try_advisory_lock_shared(1);", id="session lock, shared"),
        pytest.param("SET lock_timeout = '1s';", id="set"),
        pytest.param("SELECT 1; set session work_mem = '1MB';", id="set, later on"),
        pytest.param("SELECT set_config('a.b', 'c', false);", id="set by function"),
        pytest.param("RESET ALL;", id="reset"),
        pytest.param("CREATE TEMP TABLE t (a int);", id="temporary table"),
        pytest.param("DO $$ BEGIN SET work_mem = '1MB'; END $$;", id="set inside a body"),
    ],
)
@pytest.mark.parametrize("folder", ["functions", "migrations", "citus"])
def test_session_state(sql: Path, folder: str, statement: str) -> None:
    """
    A statement whose effect outlives its transaction is a finding in every folder.
    """
    (sql / folder).mkdir(exist_ok=True)
    (sql / folder / "0002_more.sql").write_text(f"-- More.\n{statement}\n")
    (only,) = found(sql)
    assert only.startswith("0002_more.sql:2: ")


@pytest.mark.parametrize(
    ("folder", "name", "function", "allowed"),
    [
        pytest.param("queries", "background.sql", "pg_try_advisory_lock", True, id="the leader's"),
        pytest.param("queries", "background.sql", "pg_advisory_lock", False, id="one that waits"),
        pytest.param("queries", "things.sql", "pg_try_advisory_lock", False, id="in another file"),
        pytest.param("functions", "background.sql", "pg_try_advisory_lock", False, id="in another folder"),
    ],
)
def test_one_session_lock_is_allowed(sql: Path, folder: str, name: str, function: str, allowed: bool) -> None:
    """
    The leader's session lock, which has its own session, is accepted, and no other is.
    """
    (sql / folder / name).write_text(f"-- name: leader_lock(key)\n-- Lead.\nSELECT {function}($1);\n")
    assert bool(found(sql)) is not allowed


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("CREATE TABLE t (a bigint PRIMARY KEY);", id="primary key"),
        pytest.param("CREATE TABLE t (a bigint UNIQUE);", id="unique"),
        pytest.param("CREATE TABLE t (a bigint CHECK (a > 0));", id="check"),
        pytest.param("CREATE TABLE t (a bigint REFERENCES u);", id="references"),
        pytest.param("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u;", id="foreign key"),
        pytest.param("CREATE INDEX ON t (a);", id="index"),
    ],
)
def test_constraints_have_names(sql: Path, statement: str) -> None:
    """
    A constraint without a name in a migration is a finding.
    """
    (sql / "migrations" / "0002_more.sql").write_text(statement)
    assert {text.split(":")[0] for text in found(sql)} == {"0002_more.sql"}


@pytest.mark.parametrize("name", ["0003_gap.sql", "0001_twice.sql", "2_short.sql", "0002_Caps.sql"])
def test_migrations_are_numbered(sql: Path, name: str) -> None:
    """
    A gap, a duplicate or a wrong name is a finding.
    """
    (sql / "migrations" / name).write_text("SELECT 1;")
    assert any("migration" in text for text in found(sql))
