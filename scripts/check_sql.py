"""
Check the project's own rules for sql/, which no general linter knows and other code relies on.

- Every statement under queries/ has `-- name: noun_verb(args)` and one English line, and the
  arguments are exactly the parameters $1..$n that it uses. The loader reads that form.
- No statement sets session state, listens or notifies: the pool does not reset connections, and a
  NOTIFY in a posting transaction would serialise all commits.
- Every constraint of a migration has a name, because the code tells errors apart only by that name.
- Migrations are numbered 0001, 0002, ... without a gap.

Uses the standard library only. Prints `path:line: what is wrong`, and exits 1 if there is a finding.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Finding(NamedTuple):
    """
    One broken rule and its place.
    """

    path: Path
    line: int
    text: str


# Comments and literals, in the order in which to try them. A body between $$ is code.
NOT_CODE = re.compile(
    r"""
      --[^\n]*
    | /\*.*?\*/
    | \b[eE]'(?:\\.|''|[^'\\])*'
    | '(?:''|[^'])*'
    """,
    re.VERBOSE | re.DOTALL,
)

STATEMENT_START = r"(?:\A|;|\$\w*\$|\b(?:BEGIN|THEN|ELSE|LOOP)\b)\s*"
BANNED = [
    (r"\b(?:UN)?LISTEN\b|\bNOTIFY\b|\bpg_notify\b", "LISTEN and NOTIFY are not used"),
    (
        r"\bpg_(?:try_)?advisory_(?:un)?lock\w*",
        "an advisory lock must end with its transaction: pg_advisory_xact_lock",
    ),
    (
        STATEMENT_START + r"\bSET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)",
        "SET outlives its transaction: SET LOCAL",
    ),
    (
        STATEMENT_START + r"\b(?:RESET|DISCARD|PREPARE|DEALLOCATE)\b",
        "session state is not touched",
    ),
    (r"\bset_config\s*\([^()]*,\s*false\s*\)", "set_config(..., false) outlives its transaction"),
    (r"\bCREATE\s+(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\b", "temporary objects are session state"),
]
BANNED_PATTERNS = [(re.compile(pattern, re.IGNORECASE), text) for pattern, text in BANNED]
# Exceptions: the file under sql/ and the text that it may contain -> why.
ALLOWED = {
    (
        "queries/background.sql",
        "pg_try_advisory_lock",
    ): "the leader's lock has to last as long as its session, a connection of its own that no pool gives back",
}

CONSTRAINT = re.compile(r"\b(PRIMARY\s+KEY|UNIQUE|CHECK|FOREIGN\s+KEY|EXCLUDE|REFERENCES)\b", re.IGNORECASE)
NAMED = re.compile(r"\bCONSTRAINT\s+\w+\s*\Z", re.IGNORECASE)
# The text before these words if they are not a constraint of their own: an index, a view, a foreign key.
NOT_A_CONSTRAINT = {
    "UNIQUE": re.compile(r"\bCREATE\s+\Z", re.IGNORECASE),
    "CHECK": re.compile(r"\bWITH\s+(?:LOCAL\s+|CASCADED\s+)?\Z", re.IGNORECASE),
    "REFERENCES": re.compile(r"\bCONSTRAINT\s+\w+\s+FOREIGN\s+KEY\s*\([^()]*\)\s*\Z|\bGRANT\b[^;]*\Z", re.IGNORECASE),
}
UNNAMED_INDEX = re.compile(r"\bINDEX\s+(?:CONCURRENTLY\s+)?ON\b", re.IGNORECASE)

HEADER = re.compile(r"^-- name: ", re.MULTILINE)
HEADER_FORM = re.compile(r"-- name: (?P<name>[a-z][a-z0-9]*(?:_[a-z0-9]+)+)\((?P<args>[^()]*)\)")
ARGUMENT = re.compile(r"[a-z][a-z0-9_]*")
ENGLISH_LINE = re.compile(r"-- [A-Z][^\n]*\.")
PARAMETER = re.compile(r"\$(\d+)")
# A text that several statements share, and the place where it is inserted.
SHARED = re.compile(r"^-- columns: (\w+)\n((?:--[^\n]*\n)+)", re.MULTILINE)
SHARED_USE = re.compile(r"\{(\w+)\}")
MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def code_of(text: str) -> str:
    """
    Replace comments and literals by blanks, so that all other characters keep their place.
    """
    return NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def check_session_state(path: Path, text: str) -> Iterator[Finding]:
    code = code_of(text)
    place = f"{path.parent.name}/{path.name}"
    for pattern, what in BANNED_PATTERNS:
        for match in pattern.finditer(code):
            if (place, match.group().lower()) in ALLOWED:
                continue
            yield Finding(path, line_of(code, match.end() - 1), what)


def check_constraints(path: Path, text: str) -> Iterator[Finding]:
    code = code_of(text)
    for match in CONSTRAINT.finditer(code):
        before = code[: match.start()]
        kind = " ".join(match.group().upper().split())
        exception = NOT_A_CONSTRAINT.get(kind)
        if NAMED.search(before) or (exception and exception.search(before)):
            continue
        yield Finding(path, line_of(code, match.start()), f"{kind} without CONSTRAINT name")
    for match in UNNAMED_INDEX.finditer(code):
        yield Finding(path, line_of(code, match.start()), "an index without a name")


def check_numbering(paths: list[Path]) -> Iterator[Finding]:
    for expected, path in enumerate(sorted(paths), start=1):
        match = MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            yield Finding(path, 1, "a migration is named NNNN_what_it_does.sql")
        elif int(match.group(1)) != expected:
            yield Finding(path, 1, f"a migration is missing or doubled: expected {expected:04}")


def check_queries(path: Path, text: str, shared: Mapping[str, str]) -> Iterator[tuple[str, Finding | None]]:
    """
    Yield each statement's name and the finding about it, if any; *shared* texts are inserted into statements.
    """
    starts = [match.start() for match in HEADER.finditer(text)]
    if not starts or code_of(text[: starts[0]]).strip():
        yield "", Finding(path, 1, "a statement without `-- name: noun_verb(args)`")
    for start, end in pairwise([*starts, len(text)]):
        statement = text[start:end]
        line = line_of(text, start)
        header = HEADER_FORM.fullmatch(statement.split("\n", 1)[0])
        if header is None:
            yield "", Finding(path, line, "the header is not `-- name: noun_verb(args)`")
            continue
        wrong = what_is_wrong(statement, header["args"], shared)
        yield header["name"], Finding(path, line, f"{header['name']}: {wrong}") if wrong else None


def what_is_wrong(statement: str, arguments_text: str, shared: Mapping[str, str]) -> str | None:
    """
    Return what is wrong with one statement apart from its header, or None; *shared* texts are inserted into it.
    """
    arguments = arguments_text.split(", ") if arguments_text else []
    if not all(ARGUMENT.fullmatch(argument) for argument in arguments):
        return "arguments are snake_case names, separated by a comma and a blank"
    if len(set(arguments)) != len(arguments):
        return "an argument is named twice"
    if ENGLISH_LINE.fullmatch(statement.split("\n", 2)[1]) is None:
        return "the second line is not one English sentence"
    code = code_of(statement).strip()
    if not code:
        return "no statement follows"
    if ";" in code.rstrip(";"):
        return "more than one statement"
    code = SHARED_USE.sub(lambda match: shared.get(match[1], match[0]), code)
    used = {int(number) for number in PARAMETER.findall(code)}
    if used != set(range(1, len(arguments) + 1)):
        shown = ", ".join(f"${number}" for number in sorted(used)) or "none"
        return f"the header names {len(arguments)} arguments, the statement uses {shown}"
    return None


def check_tree(sql: Path) -> Iterator[Finding]:
    """
    Check every file under *sql*.
    """
    paths = sorted(sql.rglob("*.sql"))
    if not paths:
        yield Finding(sql, 1, "no SQL files here")
    seen: dict[str, Path] = {}
    shared = {match[1]: match[2] for path in paths for match in SHARED.finditer(path.read_text(encoding="utf-8"))}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        yield from check_session_state(path, text)
        if path.parent == sql / "migrations":
            yield from check_constraints(path, text)
        if path.parent == sql / "queries":
            for name, finding in check_queries(path, text, shared):
                if finding:
                    yield finding
                if name in seen:
                    yield Finding(path, 1, f"{name} stands in {seen[name].name} as well")
                if name:
                    seen[name] = path
    yield from check_numbering(list((sql / "migrations").glob("*.sql")))


def main() -> int:
    sql = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "sql"
    findings = list(check_tree(sql))
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.text}")
    count = sum(1 for _ in sql.rglob("*.sql"))
    print(f"SQL checks: {count} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
