"""Defines how load tests end: their exit codes, and the error that stops one."""

# Success; an objective was missed or a promise was broken; the test could not be run; it was interrupted.
GOOD, FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130


class NotRunError(Exception):
    """A load test cannot be run or cannot go on; the message says why."""
