"""Text for a terminal, a page, a table or a picture, made harmless for where it is shown.

Names of classes, videos, splits and files come out of other people's datasets: tags, formulas and
escape sequences in them must be seen and not obeyed. One function for each kind of output; `say`
and `tell` are the only ways to the terminal.
"""

import re
import sys
from html import escape

from twinstream.errors import beginning

# A spreadsheet computes a cell that begins so.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKS = re.compile(r"[\\`|<>*\[\]~]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")
# A bare address becomes a link by its first word.
_LINKED = re.compile(r"(?i)\b(?:https?|ftp|mailto)(?=:)|\bwww(?=\.)")


def plain(text: str) -> str:
    """Text whose control characters are spelt: ESC is `\\x1b`, and `\\u202e` turns nothing.

    Line ends stay.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter == "\n"
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )


def one_line(text: str) -> str:
    """The same, line ends spelt too."""
    return plain(text).replace("\n", "\\n")


def say(text: str) -> None:
    """A result, on stdout."""
    print(plain(text), flush=True)


def tell(text: str) -> None:
    """What a person has to know, on stderr."""
    print(plain(text), file=sys.stderr, flush=True)


def html_text(text: str) -> str:
    """Text of a page or of an attribute in quotes."""
    return escape(one_line(text))


def markdown_text(text: str) -> str:
    """Text of a line or a cell of markdown, in which nothing is a mark, a tag or a link."""
    marked = _MARKS.sub(r"\\\g<0>", one_line(text))
    return _LINKED.sub(lambda match: match[0][:-1] + f"&#{ord(match[0][-1])};", marked)


def csv_text(text: str) -> str:
    """Text of a cell; an apostrophe stands before one that a spreadsheet would compute."""
    return f"'{one_line(text)}" if text.startswith(_FORMULA) else one_line(text)


def figure_text(text: str) -> str:
    """Text in a picture, cut where it is long: it is drawn whole before the picture is cut.

    Between two dollars matplotlib would read a formula.
    """
    return plain(beginning(text)).replace("$", r"\$")
