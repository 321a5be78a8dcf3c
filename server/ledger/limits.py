"""Limits of the ledger's own values, each with its unit. The database and the published schema hold the same ones."""

from datetime import UTC, datetime

# Smallest and largest balance, in minor units of the currency: what 64 bits hold.
BALANCE_MIN = -(2**63)
BALANCE_MAX = 2**63 - 1

# Edges of the ranges of instants, and of cursors.
TIME_MIN = datetime(1, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

# An account id: what fits into a path segment, a log line and a key without escaping.
ACCOUNT_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$"
# ISO 4217 and beyond: points, tokens, units of energy.
CURRENCY_PATTERN = r"^[A-Z0-9]{3,8}$"

# Idempotency keys, in characters of visible ASCII.
IDEMPOTENCY_KEY_LENGTH_MAX = 255

# Free text of a transfer, in characters. A reference is indexed, so it stays short.
REFERENCE_LENGTH_MAX = 255
DESCRIPTION_LENGTH_MAX = 1_000

# Metadata: entries, and characters of a key and of a value.
METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500

# Rows in a page of a list.
PAGE_MAX = 100
PAGE_DEFAULT = 20

# Items in a bulk request. An atomic set must fit into one database transaction that holds its row locks briefly.
BULK_ITEMS_MAX = 1_000
