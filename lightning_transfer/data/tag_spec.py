"""How a column of tags becomes targets."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_transfer.data.tag_scheme import SCHEMES, is_entity_tag, split_tag
from lightning_transfer.labels import Labels


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
        near = difflib.get_close_matches(tag, labels.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown tag {tag!r}; known: {', '.join(labels.names)}{hint}")


def _sorting(tag: str) -> tuple[str, str]:
    return split_tag(tag)[::-1] if is_entity_tag(tag) else (tag, "")


def inside_of(labels: Labels) -> np.ndarray:
    """Return the tag of a word's further tokens for each tag of the word, int64 ``(tags,)``.

    Inside of an entity that begins with the word; the same tag where there is no such.
    """
    names = labels.names
    inner = [f"I-{split_tag(name)[1]}" if name.startswith("B-") else name for name in names]
    return np.array([names.index(tag if tag in names else names[i]) for i, tag in enumerate(inner)])
