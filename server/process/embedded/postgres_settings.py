"""The embedded PostgreSQL's settings, each with its reason."""

from pathlib import Path

# A log larger than this is removed at the next start. There are at most seven logs, one for each day of the week.
LOG_BYTES_MAX = 16_777_216

# Settings are given on the command line, so that no file and no ALTER SYSTEM can change them.
SETTINGS = {
    # A commit that was answered must survive a power cut, so none of these may ever be off.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Only processes on this machine that may enter the private socket directory can connect.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # pg_hba.conf requires this method, whatever a file of the cluster says.
    "password_encryption": "scram-sha-256",
    # Enough for 20 workers with a few posting and reading connections each; a busy connection takes 5 MB.
    "max_connections": "200",
    # This holds the hot accounts, keys and index tips of a large ledger, and fits in a small machine.
    "shared_buffers": "256MB",
    # With 4 GB of log between checkpoints few full pages are written again, and replaying it after a crash takes half a
    # minute (8 s per GB were measured). Files up to the minimum are kept for reuse.
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    # Do not fill new log files with zeros first: under load, all commits waited 50 ms for that more than once a second.
    # Without it, blocks are allocated as they are needed, and a single commit was as fast as before (on ext4).
    "wal_init_zero": "off",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # These binaries have only pglz. It reduced the log after a checkpoint to a fifth of its size but cost a quarter of
    # the throughput (pgbench, 16 clients, 2 cores), and disk space is cheaper.
    "wal_compression": "off",
    # Statements are short and use indexes, so compiling them costs more than it saves.
    "jit": "off",
    # All data is on an SSD or in memory.
    "random_page_cost": "1.1",
    # Balances are updated all day, and transfers are only appended. Frequent small vacuums keep the row versions of hot
    # accounts few and index-only scans possible.
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "1000",
    # A transaction left open in a terminal would block the feed and vacuum for ever.
    "idle_in_transaction_session_timeout": "60s",
    # What is stored or logged must not depend on the machine's time zone and language.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # One file for each day of the week; it is emptied when the day comes again.
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    # The text of a statement's error can hold a row's contents or a secret, and the client gets it anyway. So the
    # server logs only what concerns the server itself.
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
    """Return the arguments of the command `postgres`."""
    # The log directory is relative to the cluster, because the path above it may contain any character.
    places = {
        "port": str(port),
        "unix_socket_directories": str(sockets),
        "log_directory": f"../{logs.name}",
    }
    settings = {**SETTINGS, **places}
    return ["-D", str(cluster), *(f"--{name}={value}" for name, value in settings.items())]
