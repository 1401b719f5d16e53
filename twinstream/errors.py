"""The one exception that means: the user's input is at fault.

The command line turns it into one line and exit code 1. Everything else that escapes is a bug of
ours and keeps its traceback. It is a ValueError so that library users need not know our name for
it.
"""


class InputError(ValueError):
    """Input that cannot be used as it is; the message says what was wrong, what is right, and
    where.
    """
