"""Tries inputs in processes of their own, so that one that crashes or hangs is a finding."""

import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

HANG_SECONDS = 60
# Tries the inputs of these numbers; sends (number, "") before and (number, outcome) after each.
Tries = Callable[[range, Connection], None]


def watched(
    numbers: range, tries: Tries, method: str = "spawn", hang_seconds: float | None = None
) -> Iterator[tuple[int, str]]:
    """(number, outcome) of each input, with a new process after one that died or was silent."""
    context = get_context(method)
    while numbers:
        answers, end = context.Pipe(duplex=False)
        process = context.Process(target=tries, args=(numbers, end))
        process.start()
        end.close()
        number, hangs = numbers[0], False
        try:
            while numbers and not hangs:
                if hangs := not answers.poll(hang_seconds or HANG_SECONDS):
                    process.kill()
                    continue
                number, found = answers.recv()
                if found:
                    yield number, found
                    numbers = numbers[1:]
        except EOFError:
            pass
        process.join()
        if numbers:
            # What works without an end runs out of the processor's time that it has.
            hangs = hangs or process.exitcode == -signal.SIGXCPU
            # A negative code is a signal's; 1 is an exception, told on stderr.
            yield number, "hangs" if hangs else f"ended its process with code {process.exitcode}"
            numbers = range(number + 1, numbers.stop)


def parts_of(numbers: range, workers: int) -> list[range]:
    """The numbers in as many runs as there are workers."""
    step = max(1, -(-len(numbers) // workers))
    return [numbers[start : start + step] for start in range(0, len(numbers), step)]
