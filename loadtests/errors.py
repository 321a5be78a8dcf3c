"""How load tests end: their exit codes, and the error that stops one."""

# All is well; something was missed or a promise was broken; it could not be run; somebody has ended it.
GOOD, FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130


class NotRunError(Exception):
    """A load test cannot be run or go on; the message says why."""
