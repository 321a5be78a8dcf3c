"""The embedded PostgreSQL's settings, each with its reason."""

from pathlib import Path

# A log above this is removed at the next start; the days of the week below bound their number.
LOG_BYTES_MAX = 16_777_216

# Given on the command line: no file and no ALTER SYSTEM can change them.
SETTINGS = {
    # A commit that was answered survives a power cut: nothing here may ever be off.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Only processes of this machine that may enter the private socket directory can connect.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # The one way in, whatever a file of the cluster says: pg_hba.conf asks for it.
    "password_encryption": "scram-sha-256",
    # 20 workers with a posting and a read pool of a few connections each; 5 MB apiece at work.
    "max_connections": "200",
    # Holds the hot accounts, keys and index tips of a large ledger, and fits a small machine.
    "shared_buffers": "256MB",
    # 4 GB of log between checkpoints: few full pages are written again, and reading it back after
    # a crash takes half a minute (8 s a GB were measured). The minimum stays for reuse.
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    # A new file of the log is not written full of zeros first: all commits waited 50 ms for that, more than once a
    # second under load. Blocks are then allocated as they are needed; a commit alone was as fast as before (ext4).
    "wal_init_zero": "off",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # These binaries know only pglz. It made the log after a checkpoint a fifth of its size and
    # took a quarter of the rate (pgbench, 16 clients, 2 cores): the disk is the cheaper part.
    "wal_compression": "off",
    # Short indexed statements: compiling costs more than it saves, and all data is on an SSD
    # or in memory.
    "jit": "off",
    "random_page_cost": "1.1",
    # Balances are updated all day and transfers only appended: little and often keeps the row
    # versions of hot accounts few and index-only scans possible.
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "1000",
    # A transaction forgotten in a terminal would hold back the feed and vacuum for ever.
    "idle_in_transaction_session_timeout": "60s",
    # The machine's own zone and language have no part in what is stored or logged.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # One file per day of the week, emptied when its day comes again.
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    # An error of a statement goes to the client that sent it, and its text can hold a row's
    # contents or a secret: the server itself writes down only what concerns the server.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "none",
    "log_checkpoints": "on",
    "log_lock_waits": "on",
}


def as_arguments(cluster: Path, sockets: Path, logs: Path, port: int) -> list[str]:
    """The command line of `postgres` after its name."""
    # Relative to the cluster: the path above may hold any character.
    places = {
        "port": str(port),
        "unix_socket_directories": str(sockets),
        "log_directory": f"../{logs.name}",
    }
    settings = {**SETTINGS, **places}
    return ["-D", str(cluster), *(f"--{name}={value}" for name, value in settings.items())]
