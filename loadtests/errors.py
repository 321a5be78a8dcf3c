"""
How load tests end: their exit codes, and the error that stops one.

Whatever cannot be started, asked, read or gone on with is a NotRunError. Functions do not say so one by one; they say
which others they raise.
"""

# All is well; something was missed or a promise was broken; it could not be run; somebody has ended it.
GOOD, FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130


class NotRunError(Exception):
    """A load test cannot be run or go on; the message says why."""
