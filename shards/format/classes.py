"""Lists of class names: a file of them, and how two differ. A label is a position in a list."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from twinstream.errors import InputError

NUM_NAMED = 5
NUMBER_THEM = "number the lines from 1, as in 1 NAME, if these numbers belong to the names"
# A longer number is no label, and Python refuses to read one of thousands of digits.
_NUMBER_FIRST = re.compile(r"(?P<number>[0-9]{1,9})(?:\s*,\s*|\s+)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*[^\s,])(?:\s*,\s*|\s+)(?P<number>[0-9]{1,9})")


def parse_classes(text: str, where: str) -> tuple[str, ...]:
    """The class names of a file, by label: a name a line, or numbered as in classInd.txt.

    `2 Biking` `1 Archery` and `Archery 0` `Biking 1` -> Archery, Biking: every line has a number,
    and these count from 0 or from 1. InputError, which begins with `where`, for a class that is
    there twice and for numbers that leave open what is meant.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{where}: holds no class name")
    names = _numbered(lines, _NUMBER_FIRST, where) or _numbered(lines, _NUMBER_LAST, where) or lines
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{where}: class {name!r} is there {count} times; expected each once")
    return tuple(names)


def class_difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How the classes `found` there differ from those `wanted` here; labels count from 0.

    a b c, a c b -> `the same 3 classes in another order: label 1 is b there, c here (and 1 more)`.
    Equal lists give `no difference`.
    """
    if list(found) == list(wanted):
        return "no difference"
    for names, where in ((found, "there"), (wanted, "here")):
        for name, count in Counter(names).items():
            if count > 1:
                return f"{name} is named {count} times {where}"
    only_there = [name for name in found if name not in {*wanted}]
    only_here = [name for name in wanted if name not in {*found}]
    if not only_there and not only_here:
        return f"the same {len(found)} classes in another order: {_first_place(found, wanted)}"
    spelt = _spelt_otherwise(only_there, only_here)
    if len(spelt) == len(only_there) == len(only_here):
        renamed = [spelt.get(name, name) for name in found]
        order = "" if renamed == list(wanted) else " and another order"
        place = _first_place(found, wanted)
        return f"the same {len(found)} classes in another spelling{order}: {place}"
    only = {
        "there": [name for name in only_there if name not in spelt],
        "here": [name for name in only_here if name not in spelt.values()],
    }
    counts: list[str] = []
    for where, names in only.items():
        verb = "" if counts else " class is" if len(names) == 1 else " classes are"
        if names:
            counts.append(f"{len(names)}{verb} only {where} ({first_few(names)})")
    pairs = [f"{theirs} there is {ours} here" for theirs, ours in spelt.items()]
    return ", ".join(counts) + (f"; {first_few(pairs)}" if pairs else "")


def first_few(names: Sequence[str]) -> str:
    """`a, b, c, d, e and 2 more`."""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f"{', '.join(names[:NUM_NAMED])}{more}"


def plain_class(name: str) -> str:
    """`Hand_stand`, `hand stand` -> `handstand`: the same for all spellings of a name."""
    plain = unicodedata.normalize("NFC", name.casefold())
    return "".join(letter for letter in plain if letter not in " _-")


def spelling_warning(classes: Iterable[str]) -> list[str]:
    """A line that names classes of one spelling, such as `Hand_stand`, `hand stand`, if any."""
    by_spelling: dict[str, list[str]] = {}
    for name in classes:
        by_spelling.setdefault(plain_class(name), []).append(name)
    alike = [" / ".join(names) for names in by_spelling.values() if len(names) > 1]
    return [f"classes that differ in spelling only: {first_few(alike)}"] if alike else []


def _first_place(found: Sequence[str], wanted: Sequence[str]) -> str:
    pairs = enumerate(zip(found, wanted, strict=True))
    places = [label for label, (theirs, ours) in pairs if theirs != ours]
    first, more = places[0], len(places) - 1
    rest = f" (and {more} more place{'s' if more > 1 else ''})" if more else ""
    return f"label {first} is {found[first]} there, {wanted[first]} here{rest}"


def _spelt_otherwise(found: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Names that differ in case, spaces, `_` or `-` alone: {`hand_stand`: `HandStand`}."""
    plain = {plain_class(name): name for name in wanted}
    pairs = {name: plain[plain_class(name)] for name in found if plain_class(name) in plain}
    # Two names that become one another's spelling do not tell which is meant.
    once = Counter(pairs.values())
    return {name: other for name, other in pairs.items() if once[other] == 1}


def _numbered(lines: list[str], form: re.Pattern[str], where: str) -> list[str]:
    """The names in the order of their numbers; none where the lines are not numbered.

    InputError where they seem to be and a number is absent.
    """
    matches = [form.fullmatch(line) for line in lines]
    named = sorted((int(match["number"]), match["name"]) for match in matches if match)
    numbers, names = [number for number, _ in named], [name for _, name in named]
    counts_up = numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])
    # `level 1`, `level 2` or one of them alone: without their numbers such names are no names.
    if not names or (len({*names}) == 1 and form is _NUMBER_LAST):
        return []
    if len(names) < len(lines):
        # A few names may begin or end with a number; where most of them count up, a line is wrong.
        if counts_up and 1 < len(names) >= len(lines) / 2:
            line = lines[matches.index(None)]
            raise InputError(
                f"{where}: {line!r} has no number, {len(names)} other lines have one; {NUMBER_THEM}"
            )
        return []
    if not counts_up:
        first = min(numbers[0], 1)
        expected = range(first, first + len(lines))
        absent = next(number for number in expected if number not in numbers)
        raise InputError(
            f"{where}: every line has a number, but none has {absent}; expected {expected[0]} to "
            f"{expected[-1]}, each once; {NUMBER_THEM}"
        )
    return names
