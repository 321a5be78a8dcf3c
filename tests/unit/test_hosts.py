"""Database addresses with several hosts."""

import pytest

from server.store.hosts import each_host

WRITES = "target_session_attrs=read-write"


@pytest.mark.parametrize(
    ("dsn", "addresses"),
    [
        ("postgresql://u:p@one:5432/books", ["postgresql://u:p@one:5432/books"]),
        (
            f"postgresql://u:p@one:5432,two:5433/books?{WRITES}",
            [f"postgresql://u:p@one:5432/books?{WRITES}", f"postgresql://u:p@two:5433/books?{WRITES}"],
        ),
        (
            "postgresql://one,[::1]:5433/books?target_session_attrs=primary&sslmode=require",
            [
                "postgresql://one/books?target_session_attrs=primary&sslmode=require",
                "postgresql://[::1]:5433/books?target_session_attrs=primary&sslmode=require",
            ],
        ),
        # Any host would do, so their order matters.
        ("postgresql://one,two/books", ["postgresql://one,two/books"]),
        (
            "postgresql://one,two/books?target_session_attrs=prefer-standby",
            ["postgresql://one,two/books?target_session_attrs=prefer-standby"],
        ),
        (
            f"postgresql:///books?host=/a,/b&port=1&{WRITES}",
            [f"postgresql:///books?host=%2Fa&port=1&{WRITES}", f"postgresql:///books?host=%2Fb&port=1&{WRITES}"],
        ),
        (
            f"postgresql:///books?host=one,two&port=1,2&{WRITES}",
            [f"postgresql:///books?host=one&port=1&{WRITES}", f"postgresql:///books?host=two&port=2&{WRITES}"],
        ),
        # asyncpg reports the error in this address.
        (
            f"postgresql:///books?host=one,two&port=1,2,3&{WRITES}",
            [f"postgresql:///books?host=one,two&port=1,2,3&{WRITES}"],
        ),
        (f"postgresql:///books?host=/a&port=1&{WRITES}", [f"postgresql:///books?host=/a&port=1&{WRITES}"]),
    ],
)
def test_each_host_has_an_address(dsn: str, addresses: list[str]) -> None:
    """
    If only a host that takes writes will do, each host gets an address of its own; other addresses are left to asyncpg.
    """
    assert each_host(dsn) == addresses
