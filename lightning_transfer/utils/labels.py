"""The label contract: what a model's outputs are called, carried by data, head and checkpoint."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "regression", "single_label", "multi_label", "masked_tokens", "next_tokens", "tags", "text"
]
_FEWEST = {"single_label": 2, "multi_label": 1, "tags": 2}  # names, of kinds that need any


@dataclass(frozen=True)
class Labels:
    """Names of a task's outputs, matched by name and never by index.

    Label ids that silently change meaning between two data sets are the classic way to lose a
    transfer, so an id never leaves this object: data, head, checkpoint and predictions speak names.

    Args:
        kind: ``rating`` (one real output), ``single`` (one class of several), ``multi`` (any
            number of the classes), ``tokens`` (no label: hidden tokens of the text are to be
            guessed), ``next_tokens`` (no label: each token is, from those before it), ``tags``
            (one of several for each word) or ``text`` (another text is to be written).
        names: Class names in output order. For a rating they are optional and name the bands that
            ``cutoffs`` cut the scale into. For tokens they are optional and name what the second
            part of a pair may be to the first. For next tokens and text there are none.
        cutoffs: Ascending band limits of a rating, one fewer than ``names``, in units of the
            rating. A value equal to a cut-off lies in the band below it.

    Raises:
        ValueError: If names repeat, are too few for the kind, or do not fit the cut-offs.

    Example:
        >>> labels = Labels("regression", ("negative", "neutral", "positive"), (-0.5, 0.5))
        >>> labels.num_outputs, labels.band(0.5), labels.band(0.51)
        (1, 'neutral', 'positive')
    """

    kind: Kind
    names: tuple[str, ...] = ()
    cutoffs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the names against the kind and the cut-offs."""
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "cutoffs", tuple(float(cut) for cut in self.cutoffs))
        if self.kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            raise ValueError(f"label kind must be one of {kinds}, got {self.kind!r}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"label names must differ, got {list(self.names)}")
        if self.kind == "regression":
            self._check_bands()
        elif self.cutoffs:
            raise ValueError(f"only a rating has cut-offs, got {self.cutoffs} for {self.kind!r}")
        elif self.kind == "next_tokens" and self.names:
            raise ValueError(f"'next_tokens' have no label names, got {list(self.names)}")
        elif len(self.names) < _FEWEST.get(self.kind, 0):
            raise ValueError(f"{self.kind!r} labels need more names, got {list(self.names)}")
        elif self.kind == "text" and self.names:
            raise ValueError(f"a text to be written has no label names, got {list(self.names)}")

    def _check_bands(self) -> None:
        if len(self.names) == 1 or len(self.cutoffs) != max(len(self.names) - 1, 0):
            raise ValueError(
                f"a rating's bands need one cut-off fewer than names (and at least 2 names), "
                f"got names {list(self.names)} and cut-offs {list(self.cutoffs)}"
            )
        if list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"cut-offs must ascend, got {list(self.cutoffs)}")

    @property
    def is_raw_text(self) -> bool:
        """Whether the text itself is what is guessed."""
        return self.kind in ("masked_tokens", "next_tokens")

    @property
    def num_outputs(self) -> int:
        """Width of the head's output; of tokens and text, without that of the vocabulary."""
        return 1 if self.kind == "regression" else len(self.names)

    def index(self, name: str) -> int:
        """Return the output position of ``name``.

        Raises:
            ValueError: If the name is not one of ours; the message lists those that are.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(f"unknown label {name!r}; known: {', '.join(self.names)}") from None

    def band_index(self, rating: float) -> int:
        """Return the position of the band that holds ``rating``."""
        return bisect.bisect_left(self.cutoffs, rating)

    def band(self, rating: float) -> str:
        """Return the name of the band that holds ``rating``."""
        return self.names[self.band_index(rating)]

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain JSON values."""
        return {"kind": self.kind, "names": list(self.names), "cutoffs": list(self.cutoffs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Labels":
        """Rebuild a contract from :meth:`to_dict`."""
        return cls(data["kind"], tuple(data["names"]), tuple(data["cutoffs"]))


def match_outputs(
    old: Labels, new: Labels, label_map: Mapping[str, str] | None = None
) -> Sequence[int | None] | None:
    """Match two contracts by name: which old output feeds each new one.

    Args:
        old: Contract of the weights at hand.
        new: Contract of the data to come.
        label_map: Old name to new name, for names that differ but mean the same.

    Returns:
        For each new output the position of the old output that it takes its weights from, or
        ``None`` where it starts anew; ``None`` in place of the list when nothing carries over and
        a new head is due.

    Raises:
        ValueError: If only some names agree and no ``label_map`` says what the others are, or if
            the map names a label that does not exist.

    Example:
        >>> a = Labels("single_label", ("neg", "pos"))
        >>> b = Labels("single_label", ("pos", "neg"))
        >>> match_outputs(a, b)
        [1, 0]
    """
    label_map = dict(label_map or {})
    for given, known, side in (
        (label_map, old.names, "old"),
        (label_map.values(), new.names, "new"),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"label_map names the {side} labels {unknown}, which are not among {list(known)}"
            )
    if old.kind != new.kind or old.kind == "regression":
        if label_map:
            raise ValueError(
                f"label_map cannot join {old.kind!r} labels to {new.kind!r} labels; drop label_map"
            )
        return [0] if old.kind == new.kind else None
    if old.kind == "masked_tokens" and not label_map and {*old.names} != {*new.names}:
        return None  # a head with another part
    renamed: dict[str, int] = {}
    for position, name in enumerate(old.names):
        goal = label_map.get(name, name)
        if goal in renamed:
            raise ValueError(
                f"label_map sends both {old.names[renamed[goal]]!r} and {name!r} to {goal!r}; "
                "each new label takes its weights from one old label"
            )
        renamed[goal] = position
    shared = [name for name in new.names if name in renamed]
    if not shared and new.names:
        return None
    if not label_map and (len(shared) < len(new.names) or len(shared) < len(old.names)):
        raise ValueError(
            f"labels agree only in part: the weights know {list(old.names)}, the data "
            f"{list(new.names)}; say what belongs together with label_map={{old: new}}, or use "
            "names that differ entirely to start a new head"
        )
    return [renamed.get(name) for name in new.names]
