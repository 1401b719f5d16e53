"""How two lists of class names differ, in one line; a label is a position in such a list."""

from collections import Counter
from collections.abc import Sequence

NUM_NAMED = 5


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


def _first_place(found: Sequence[str], wanted: Sequence[str]) -> str:
    pairs = enumerate(zip(found, wanted, strict=True))
    places = [label for label, (theirs, ours) in pairs if theirs != ours]
    first, more = places[0], len(places) - 1
    rest = f" (and {more} more place{'s' if more > 1 else ''})" if more else ""
    return f"label {first} is {found[first]} there, {wanted[first]} here{rest}"


def _spelt_otherwise(found: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Names that differ in case, spaces, `_` or `-` alone: {`hand_stand`: `HandStand`}."""
    plain = {_plain(name): name for name in wanted}
    pairs = {name: plain[_plain(name)] for name in found if _plain(name) in plain}
    # Two names that become one another's spelling do not tell which is meant.
    once = Counter(pairs.values())
    return {name: other for name, other in pairs.items() if once[other] == 1}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")
