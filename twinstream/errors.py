"""The one exception that means: the user's input is at fault.

The command line turns it into one line and exit code 1. Everything else that escapes is a bug of
ours and keeps its traceback. It is a ValueError so that library users need not know our name for
it.
"""

import reprlib

# Of a message, its end included: there stands what to do.
MAX_MESSAGE, MAX_END = 2_000, 300
# What a file holds is repeated in a message as far as a reader needs it.
MAX_SHOWN = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
# Of torch, which has no class of error for a CPU that has no memory left
NO_MEMORY = ("can't allocate memory", "out of memory")


class InputError(ValueError):
    """Input that cannot be used as it is; the message says what was wrong, what is right, and
    where. A very long one is cut in its middle: what a file holds may stand in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(bounded(message))


def memory_fault(error: BaseException) -> str | None:
    """What an error says in one line that arose because memory was refused; None for another."""
    lines = [line for line in str(error).splitlines() if any(each in line for each in NO_MEMORY)]
    if isinstance(error, MemoryError):
        return first_line(error)
    return lines[0].strip()[:300] if lines else None


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def shortened(value: object) -> str:
    """The repr of a value that was read, cut where it is long or deep."""
    return beginning(_SHORT.repr(value))


def bounded(message: str) -> str:
    """A message, cut in its middle where it is very long."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[: MAX_MESSAGE - MAX_END]}...{message[3 - MAX_END :]}"


def beginning(text: str) -> str:
    """A text that was read, cut where it is long."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
