"""Ways to write entities as one tag a word, and the one that is learned: BIO."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_transfer.utils import Labels
from lightning_transfer.utils.suggestions import closest, did_you_mean

SCHEMES = ("bio", "iob1", "iobes", "plain")
"""BIO (IOB2): each entity begins with B. IOB1: only one that touches another of its type does.
IOBES (BILOU): E (L) marks the last word, S (U) a single one. Plain: parts of speech and others."""

_TAGS = {
    **dict.fromkeys(("bio", "iob1"), "O, B-… and I-…"),
    "iobes": "O, B-…, I-… (M-…), E-… (L-…) and S-… (U-…)",
}
_MEND = (
    "set label.scheme to how the tags are written (bio, iob1, iobes, or plain to take all as they "
    "are), or label.values to put another tag in its place"
)
_BEGIN, _INSIDE, _END, _SINGLE = "B", "IM", "EL", "SU"


def split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type: ``("B", "PER")`` of ``B-PER``, and ``("O", "")`` of ``O``."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is of the form ``B-PER``, or ``O``."""
    prefix, kind = split_tag(tag)
    return tag == "O" or (len(prefix) == 1 and prefix in "BIMELSU" and bool(kind))


def detect_scheme(sentences: Sequence[Sequence[str]]) -> str:
    """Return the scheme that tags are written in, whatever single ones are odd.

    Plain, if more words have another tag than one of an entity (or ``O``); else the scheme whose
    rules the fewest sentences break, of equals the first of ``SCHEMES``.
    """
    counts = Counter(tag for sentence in sentences for tag in sentence if tag != "O")
    entities = sum(count for tag, count in counts.items() if is_entity_tag(tag))
    if 2 * entities < sum(counts.values()):
        return "plain"
    alike = Counter(map(tuple, sentences))

    def broken(scheme: str) -> int:
        return sum(count for tags, count in alike.items() if fault(tags, scheme))

    return min((scheme for scheme in SCHEMES if scheme != "plain"), key=broken)


def fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Return the first word at which a sentence breaks the scheme's rules, and how; None: nowhere.

    Args:
        tags: Of one sentence.
        scheme: One of ``SCHEMES``.
    """
    if scheme == "plain":
        return None
    before = "O"
    for place, tag in enumerate(tags):
        if not is_entity_tag(tag) or (scheme != "iobes" and tag[0] not in "OBI"):
            return place, f"{tag!r} is no tag of {scheme}, which has {_TAGS[scheme]}; {_MEND}"
        if not _may_follow(before, tag, scheme):
            behind = f"behind {before!r}" if place else "at the beginning of a sentence"
            return place, f"{tag!r} cannot stand {behind} in {scheme}"
        before = tag
    if scheme == "iobes" and not _may_follow(before, "O", scheme):
        return len(tags) - 1, f"{before!r} cannot end a sentence in {scheme}"
    return None


def stray_entity(tags: Sequence[str]) -> tuple[int, str] | None:
    """Return the first word with the tag of an entity, and what to do where others have none."""
    for place, tag in enumerate(tags):
        if tag != "O" and is_entity_tag(tag):
            return place, f"{tag!r} is the tag of an entity, and most words have others; {_MEND}"
    return None


def _may_follow(before: str, tag: str, scheme: str) -> bool:
    """Whether a tag may stand behind another."""
    (left, kind), (right, other) = split_tag(before), split_tag(tag)
    same = kind == other and left != "O"
    if scheme == "bio":
        return right != "I" or same
    if scheme == "iob1":
        return right != "B" or same
    is_open = left in _BEGIN + _INSIDE
    return (is_open and same) if right in _INSIDE + _END else not is_open


def to_bio(tags: Sequence[str], scheme: str) -> list[str]:
    """Return a sentence's tags in BIO; plain ones as they are.

    Example:
        >>> to_bio(["I-PER", "I-PER", "B-PER", "O"], "iob1")
        ['B-PER', 'I-PER', 'B-PER', 'O']
        >>> to_bio(["B-LOC", "E-LOC", "S-PER"], "iobes")
        ['B-LOC', 'I-LOC', 'B-PER']
    """
    if scheme in ("bio", "plain"):
        return list(tags)
    found = []
    before = ""
    for tag in tags:
        prefix, kind = split_tag(tag)
        begins = kind != before if scheme == "iob1" and prefix == "I" else prefix in "B" + _SINGLE
        found.append(tag if tag == "O" else f"{'B' if begins else 'I'}-{kind}")
        before = kind
    return found


@dataclass(frozen=True)
class TagSpec:
    """What the tags of words are and what is to be learned from them.

    Entities are learned in BIO, in whatever scheme they come.

    Args:
        names: Tags in output order, in BIO; None: those of the data, ``O`` first.
        values: Tag of the data -> tag in its place, before anything else is done with it.
        scheme: ``bio``, ``iob1``, ``iobes`` (and BILOU) or ``plain`` (parts of speech and the like,
            taken as they are); None: that of most words, and a line tells if it is not ``bio``. A
            word whose tag is none of the scheme makes its sentence a bad row.
        label_all: Train on all tokens of a word, the further ones as inside of its entity; else on
            its first alone. Evaluation always counts words.

    Raises:
        ValueError: If the scheme is unknown, or fewer than two names are given.
    """

    names: Sequence[str] | None = None
    values: Mapping[str, str] | None = None
    scheme: str | None = None
    label_all: bool = False

    def __post_init__(self) -> None:
        """Bring the names into a tuple and check the scheme."""
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise ValueError(
                f"label.scheme must be one of {', '.join(SCHEMES)} or null, got {self.scheme!r}"
            )
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        self.stated()

    def stated(self) -> Labels | None:
        """Return the label contract if the names are given, else None."""
        return Labels("tags", tuple(self.names)) if self.names else None

    def found(self, sentences: Iterable[Sequence[str]]) -> Labels:
        """Return the label contract, with the names read from tags in BIO if there are none.

        Raises:
            ValueError: If the data hold fewer than two tags.
        """
        stated = self.stated()
        if stated is not None:
            return stated
        names = {tag for sentence in sentences for tag in sentence}
        if len(names) < 2:
            raise ValueError(f"at least 2 tags are needed, the data hold {sorted(names)}")
        # O first, then the entities, B before I.
        return Labels("tags", tuple(sorted(names, key=lambda tag: (tag != "O", *_sorting(tag)))))

    def position(self, tag: str, labels: Labels) -> int:
        """Return the output of a tag.

        Raises:
            ValueError: If it is none of the names; the message names the closest.
        """
        if tag in labels.names:
            return labels.names.index(tag)
        near = did_you_mean(closest(tag, labels.names, count=1))
        raise ValueError(f"unknown tag {tag!r}; known: {', '.join(labels.names)}{near}")


def _sorting(tag: str) -> tuple[str, str]:
    return split_tag(tag)[::-1] if is_entity_tag(tag) else (tag, "")


def inside_of(labels: Labels) -> np.ndarray:
    """Return the tag of a word's further tokens for each tag of the word, int64 ``(tags,)``.

    Inside of an entity that begins with the word; the same tag where there is no such.
    """
    names = labels.names
    inner = [f"I-{split_tag(name)[1]}" if name.startswith("B-") else name for name in names]
    return np.array([names.index(tag if tag in names else names[i]) for i, tag in enumerate(inner)])
