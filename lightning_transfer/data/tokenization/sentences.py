"""Rule-based sentence splitting."""

import re

# After a full stop and closing quotes or brackets if white space follows, and before a line break.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s)|(?=\n)")
_BEGINNING = re.compile(r"(\s*)(\S)")


def split_sentences(text: str) -> list[str]:
    """Split a text after full stops and before line breaks.

    The rule also splits after abbreviations. Next-sentence prediction tolerates this, because any
    two consecutive parts of a text are a valid pair.

    Args:
        text: Text to split.

    Returns:
        Parts of the text with their white space; concatenated, they are the text.

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
    """Return the first sentences of a text.

    In contrast to :func:`split_sentences`, a part in lower case or after a comma continues the
    sentence, so "e.g." does not end one.

    Args:
        text: Text to shorten.
        count: Number of sentences, >= 1.

    Example:
        >>> first_sentences("Tags, e.g. of words, help. We give some. They work.", 2)
        'Tags, e.g. of words, help. We give some.'
    """
    found: list[str] = []
    for part in split_sentences(text):
        space, first = _BEGINNING.match(part).groups()  # type: ignore[union-attr]  # never blank
        # A line break always ends a sentence, for example after a headline.
        if found and "\n" not in space and (first.islower() or first in ",;:)"):
            found[-1] += part
        else:
            found.append(part)
    return "".join(found[:count]).strip()
