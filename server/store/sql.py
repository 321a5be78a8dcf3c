"""Finds the project's SQL by name: Python code has the names, the folder `sql/` has the statements."""

import re
from functools import cache
from pathlib import Path

# A comment with a list of columns that several statements return; statements of any file name it in braces.
_COLUMNS = re.compile(r"^-- columns: (?P<name>[a-z0-9_]+)\n(?P<list>(?:-- .*\n)+)", re.MULTILINE)
_HEADER = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)\((?P<arguments>[a-z0-9_, ]*)\)$", re.MULTILINE)


def sql_root() -> Path:
    """Return the folder with migrations, functions and queries: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_sql"
    return packaged if packaged.is_dir() else package.parent / "sql"


@cache
def queries() -> dict[str, str]:
    """
    Return all named statements of `sql/queries/`, by name.

    A statement begins with `-- name: noun_verb(argument, ...)`, the arguments in the order of `$1`, `$2`, ... It
    carries its name into the database as a comment, so that the server's log shows it. Columns that several statements
    return are listed once, under `-- columns: name`, and replace `{name}`.

    Raises:
        ValueError: Two statements have one name.
    """
    found: dict[str, str] = {}
    texts = [path.read_text(encoding="utf-8") for path in sorted((sql_root() / "queries").glob("*.sql"))]
    lists = {f"{{{match['name']}}}": match["list"] for text in texts for match in _COLUMNS.finditer(text)}
    for text in texts:
        heads = list(_HEADER.finditer(text))
        for head, following in zip(heads, [*heads[1:], None], strict=True):
            name = head["name"]
            if name in found:
                raise ValueError(f"two statements are named {name}")
            body = text[head.end() : following.start() if following else len(text)]
            lines = [line for line in body.strip().splitlines() if not line.startswith("--")]
            statement = "\n".join(lines).strip().rstrip(";")
            for place, columns in lists.items():
                statement = statement.replace(place, columns.replace("-- ", "").strip())
            found[name] = f"/* {name} */ {statement}"
    return found


def query(name: str) -> str:
    """
    Return the statement called *name*.

    Raises:
        KeyError: There is no such statement.
    """
    return queries()[name]
