"""Limits of HTTP requests, each with its unit."""

# Bytes of a body; a bulk of 1,000 items needs more room than one transfer.
BODY_MAX_BYTES = 64 * 1024
BULK_BODY_MAX_BYTES = 1024 * 1024
# Bytes of all header fields together, and of the request line.
HEADERS_MAX_BYTES = 16 * 1024
REQUEST_LINE_MAX_BYTES = 8 * 1024
# Header fields.
HEADERS_MAX = 64
# Characters of an id in a path.
PATH_ID_LENGTH_MAX = 64
# Seconds in which a body must have arrived: 64 KiB over a poor mobile line take two.
BODY_DEADLINE_SECONDS = 10.0
# Seconds in which a client must have read its answer: until then the worker holds it in memory.
SEND_DEADLINE_SECONDS = 30.0
# Seconds that an idle connection is kept: longer than balancers keep theirs (60), so that they close first.
KEEPALIVE_SECONDS = 75.0
# Seconds for which the unread rest of a refused body is read and dropped before its connection is closed.
LINGERING_SECONDS = 2.0
# Seconds in which a new connection must send its first head, and an incomplete head must become complete.
HEAD_DEADLINE_SECONDS = 10.0
# Bytes of an incomplete head. It may exceed the limits above, so that its refusal can say why.
HEAD_PART_MAX_BYTES = 2 * (HEADERS_MAX_BYTES + REQUEST_LINE_MAX_BYTES)
# Bytes of the bodies of pipelined requests that wait on a connection; above this, the connection is not read.
READ_AHEAD_MAX_BYTES = 64 * 1024
# Bytes of a body that wait to be read; above twice this, and one read of the socket, the connection is not read.
READ_BUFFER_BYTES = 64 * 1024
# Connections that a worker has open, if it may open as many files. A further one is answered 503 and closed.
CONNECTIONS_MAX = 20_000
# Files reserved for the rest of the process: its pools, its log, its libraries.
FILES_RESERVED = 256
# Bytes of all bodies that are still arriving at a worker. Bodies that arrive together with their head do not count.
ARRIVING_MAX_BYTES = 64 * 1024 * 1024
# Connections waiting to be accepted.
BACKLOG = 2_048
# Characters of a caller's own request id.
REQUEST_ID_LENGTH_MAX = 64

# Bytes of the rows of a page: a hundred plain rows take a fifth of it, a hundred rows with as much metadata as fits
# into a body would take six megabytes.
PAGE_BYTES_MAX = 256 * 1024
