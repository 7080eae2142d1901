"""Tag schemes of named entities: detection, checks, and conversion to BIO."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_transfer.data.label_spec import position_of
from lightning_transfer.utils import Labels

SCHEMES = ("bio", "iob1", "iobes", "plain")
"""Names of the schemes.

- ``bio`` (IOB2): every entity starts with ``B``;
- ``iob1``: an entity starts with ``B`` only directly after an entity of the same type;
- ``iobes`` (BILOU): ``E`` (``L``) marks the last word of an entity, ``S`` (``U``) a single word;
- ``plain``: tags of other kinds, such as parts of speech.
"""

_TAGS = {
    **dict.fromkeys(("bio", "iob1"), "O, B-… and I-…"),
    "iobes": "O, B-…, I-… (M-…), E-… (L-…) and S-… (U-…)",
}
_SCHEME_HINT = (
    "set data.label.scheme to bio, iob1, iobes, or plain to use all tags unchanged, or replace the "
    "tag with data.label.values"
)
# Prefixes of IOBES and its variants BILOU and BMES.
_BEGIN, _INSIDE, _END, _SINGLE = "B", "IM", "EL", "SU"


@dataclass(frozen=True)
class TagSpec:
    """Content of a column of word tags, and its conversion to targets.

    Models are trained on BIO tags. Entity tags in another scheme are converted to BIO.

    Args:
        names: Tags in output order, in BIO. ``None``: the tags in the data, ``O`` first.
        values: Tag in the data -> tag to use instead, applied before everything else.
        scheme: ``bio``, ``iob1``, ``iobes`` (also BILOU) or ``plain`` (tags used unchanged, such as
            parts of speech). A sentence that breaks the rules of the scheme is a bad row. ``None``:
            the scheme is detected, and logged if it is not ``bio``.
        label_all: True to train on all tokens of a word, with the tokens after the first tagged as
            inside of the entity. False to train on the first token only. Evaluation always counts
            words.

    Raises:
        ValueError: If the scheme is unknown, or there is only one name.
    """

    names: Sequence[str] | None = None
    values: Mapping[str, str] | None = None
    scheme: str | None = None
    label_all: bool = False

    def __post_init__(self) -> None:
        """Convert the names to a tuple, and check the scheme and the names."""
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise ValueError(
                f"label.scheme must be null or one of {', '.join(SCHEMES)}, got {self.scheme!r}"
            )
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        self.declared_labels()  # raises for a single name

    def declared_labels(self) -> Labels | None:
        """Return the labels if the names are given, else ``None``."""
        return Labels("tags", tuple(self.names)) if self.names else None

    def infer_labels(self, sentences: Iterable[Sequence[str]]) -> Labels:
        """Return the labels, with names from the data if none are given.

        Args:
            sentences: Tags of each sentence, in BIO.

        Raises:
            ValueError: If the data have fewer than two different tags.
        """
        declared = self.declared_labels()
        if declared is not None:
            return declared
        names = {tag for sentence in sentences for tag in sentence}
        if len(names) < 2:
            raise ValueError(f"at least 2 different tags are needed, the data have {sorted(names)}")
        # O first, then the types in alphabetical order, B before I.
        return Labels("tags", tuple(sorted(names, key=lambda tag: (tag != "O", *_sort_key(tag)))))

    def position(self, tag: str, labels: Labels) -> int:
        """Return the output position of a tag.

        Raises:
            ValueError: If the tag is unknown. The message has the known tags and the closest one.
        """
        return position_of("tag", tag, labels)


def split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type: ``("B", "PER")`` for ``B-PER``, ``("O", "")`` for ``O``."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def is_entity_tag(tag: str) -> bool:
    """Return True if a tag has the form ``B-PER``, or is ``O``."""
    prefix, kind = split_tag(tag)
    return tag == "O" or (len(prefix) == 1 and prefix in "BIMELSU" and bool(kind))


def detect_scheme(sentences: Sequence[Sequence[str]]) -> str:
    """Return the most likely scheme of the tags.

    The scheme is ``plain`` if fewer than half of the tags other than ``O`` are entity tags.
    Otherwise it is the scheme with the fewest violating sentences, so single wrong tags do not
    change it. Among equals, the first in ``SCHEMES`` is returned.
    """
    counts = Counter(tag for sentence in sentences for tag in sentence if tag != "O")
    entities = sum(count for tag, count in counts.items() if is_entity_tag(tag))
    if 2 * entities < sum(counts.values()):
        return "plain"
    # Most sentences of a corpus have one of a few tag sequences, so equal ones are checked once.
    sequences = Counter(map(tuple, sentences))

    def violations(scheme: str) -> int:
        return sum(count for tags, count in sequences.items() if find_violation(tags, scheme))

    return min((scheme for scheme in SCHEMES if scheme != "plain"), key=violations)


def find_violation(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Return the first word with a tag that violates the scheme, and a message.

    Args:
        tags: Tags of one sentence.
        scheme: One of ``SCHEMES``.

    Returns:
        Position of the word from 0, and message; ``None`` without a violation.
    """
    if scheme == "plain":
        return None
    before = "O"
    for place, tag in enumerate(tags):
        if not is_entity_tag(tag) or (scheme != "iobes" and tag[0] not in "OBI"):
            return place, f"{tag!r} is not a {scheme} tag, allowed: {_TAGS[scheme]}; {_SCHEME_HINT}"
        if not _may_follow(before, tag, scheme):
            context = f"follow {before!r}" if place else "start a sentence"
            return place, f"{tag!r} cannot {context} in {scheme}"
        before = tag
    # The end of a sentence closes an entity as O does.
    if scheme == "iobes" and not _may_follow(before, "O", scheme):
        return len(tags) - 1, f"{before!r} cannot end a sentence in {scheme}"
    return None


def find_stray_entity(tags: Sequence[str]) -> tuple[int, str] | None:
    """Return the first word with an entity tag in a sentence of plain tags, and a message.

    Args:
        tags: Tags of one sentence.

    Returns:
        Position of the word from 0, and message; ``None`` without an entity tag.
    """
    for place, tag in enumerate(tags):
        if tag != "O" and is_entity_tag(tag):
            return place, f"{tag!r} is an entity tag, but most tags are not; {_SCHEME_HINT}"
    return None


def to_bio(tags: Sequence[str], scheme: str) -> list[str]:
    """Convert the tags of a sentence to BIO. Plain tags are returned unchanged.

    Example:
        >>> to_bio(["I-PER", "I-PER", "B-PER", "O"], "iob1")
        ['B-PER', 'I-PER', 'B-PER', 'O']
        >>> to_bio(["B-LOC", "E-LOC", "S-PER"], "iobes")
        ['B-LOC', 'I-LOC', 'B-PER']
    """
    if scheme in ("bio", "plain"):
        return list(tags)
    converted = []
    previous = ""  # type of the tag before, empty for O
    for tag in tags:
        prefix, kind = split_tag(tag)
        # In IOB1, I starts an entity too, if the word before has no entity of this type.
        begins = kind != previous if scheme == "iob1" and prefix == "I" else prefix in "B" + _SINGLE
        converted.append(tag if tag == "O" else f"{'B' if begins else 'I'}-{kind}")
        previous = kind
    return converted


def continuation_tags(labels: Labels) -> np.ndarray:
    """Return, for each tag, the tag of the tokens after the first one in a word.

    Returns:
        Output positions, int64 ``(tags,)``: ``I-PER`` for ``B-PER``. All other tags, and a ``B``
        tag without an ``I`` tag in the labels, are their own continuation.
    """
    names = labels.names
    inner = [f"I-{split_tag(name)[1]}" if name.startswith("B-") else name for name in names]
    return np.array([names.index(tag if tag in names else names[i]) for i, tag in enumerate(inner)])


def _may_follow(before: str, tag: str, scheme: str) -> bool:
    """Return True if a tag may directly follow another one."""
    (left, kind), (right, other) = split_tag(before), split_tag(tag)
    same = kind == other and left != "O"
    if scheme == "bio":
        return right != "I" or same
    if scheme == "iob1":
        return right != "B" or same
    is_open = left in _BEGIN + _INSIDE
    return (is_open and same) if right in _INSIDE + _END else not is_open


def _sort_key(tag: str) -> tuple[str, str]:
    # Type before prefix, so that the tags of one type are adjacent.
    return split_tag(tag)[::-1] if is_entity_tag(tag) else (tag, "")
