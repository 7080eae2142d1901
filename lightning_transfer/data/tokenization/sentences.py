"""Where sentences end."""

import re

_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s)|(?=\n)")
_BEGINNING = re.compile(r"(\s*)(\S)")


def split_sentences(text: str) -> list[str]:
    """Cut a text behind full stops and before line breaks; joined, the parts are the text.

    A plain rule, which also cuts behind abbreviations: where it is to be learned whether one part
    follows another, any part of a text will do.

    Example:
        >>> split_sentences('He said "no." She left! Why?')
        ['He said "no."', ' She left!', ' Why?']
    """
    parts: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if text[start : match.end()].strip():
            parts.append(text[start : match.end()])
            start = match.end()
    return [*parts, text[start:]] if text[start:].strip() else parts


def first_sentences(text: str, count: int) -> str:
    """Return the beginning of a text.

    What goes on in lower case or with a comma is no new sentence, so that "e.g." ends none.

    Args:
        text: With its sentences in order.
        count: How many of them, at least 1.

    Example:
        >>> first_sentences("Tags, e.g. of words, help. We give some. They work.", 2)
        'Tags, e.g. of words, help. We give some.'
    """
    found: list[str] = []
    for part in split_sentences(text):
        space, first = _BEGINNING.match(part).groups()  # type: ignore[union-attr]  # it is not blank
        if found and "\n" not in space and (first.islower() or first in ",;:)"):
            found[-1] += part
        else:
            found.append(part)
    return "".join(found[:count]).strip()
