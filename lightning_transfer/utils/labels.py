"""Label contract: names of a model's outputs, shared by data, head, checkpoint and predictions."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "regression", "single_label", "multi_label", "masked_tokens", "next_tokens", "tags", "text"
]
IGNORED = -100
"""Target of a token without a label, equal to the default ``ignore_index`` of torch's losses."""
_MIN_NAMES = {"single_label": 2, "multi_label": 1, "tags": 2}
_NAMELESS = ("next_tokens", "text")


@dataclass(frozen=True)
class Labels:
    """Names of a task's outputs.

    Outputs are matched by name and never by index. A label id may change its meaning between two
    data sets without any error, and the transferred head is then wrong. Data, heads, checkpoints
    and predictions therefore exchange names, and ids are used only together with their ``Labels``.

    Args:
        kind: Kind of label:

            - ``regression``: one real number;
            - ``single_label``: one of several classes;
            - ``multi_label``: any number of several classes;
            - ``masked_tokens``: no labels in the data, the model predicts masked tokens;
            - ``next_tokens``: no labels in the data, the model predicts each next token;
            - ``tags``: one of several classes for each word;
            - ``text``: a generated text.
        names: Class names in output order. Optional for ``regression``: names of the bins given by
            ``cutoffs``. Optional for ``masked_tokens``: classes of the relation between the two
            texts of a pair. Empty for ``next_tokens`` and ``text``.
        cutoffs: For ``regression``: limits between the bins in ascending order, one fewer than
            ``names``, in units of the regression value. A value equal to a cutoff is in the lower
            bin. Empty for all other kinds.

    Raises:
        ValueError: If ``kind`` is unknown, names repeat, there are too few or too many names for
            the kind, or ``cutoffs`` do not fit kind and names.

    Example:
        >>> labels = Labels("regression", ("negative", "neutral", "positive"), (-0.5, 0.5))
        >>> labels.num_outputs, labels.bin_name(0.5), labels.bin_name(0.51)
        (1, 'neutral', 'positive')
    """

    kind: Kind
    names: tuple[str, ...] = ()
    cutoffs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Convert names and cutoffs to tuples, and check them against the kind."""
        # A config gives lists, and numbers for names such as 0 and 1. A frozen dataclass refuses
        # plain assignment.
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "cutoffs", tuple(float(cut) for cut in self.cutoffs))
        if self.kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            raise ValueError(f"label kind must be one of {kinds}, got {self.kind!r}")
        names = list(self.names)
        if len(set(names)) != len(names):
            raise ValueError(f"label names must be unique, got {names}")
        if self.kind == "regression":
            self._check_bins()
            return
        if self.cutoffs:
            raise ValueError(
                f"only regression labels have cutoffs, got {self.cutoffs} for {self.kind!r}"
            )
        if self.kind in _NAMELESS and names:
            raise ValueError(f"{self.kind!r} labels have no names, got {names}")
        fewest = _MIN_NAMES.get(self.kind, 0)
        if len(names) < fewest:
            raise ValueError(f"{self.kind!r} labels need {fewest} or more names, got {names}")

    def _check_bins(self) -> None:
        if len(self.names) == 1 or len(self.cutoffs) != max(len(self.names) - 1, 0):
            raise ValueError(
                "regression bins need 2 or more names, and one cutoff fewer than names, "
                f"got names {list(self.names)} and cutoffs {list(self.cutoffs)}"
            )
        if list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"cutoffs must increase, got {list(self.cutoffs)}")

    @property
    def is_raw_text(self) -> bool:
        """True if the model predicts tokens of the input text itself (language modelling)."""
        return self.kind in ("masked_tokens", "next_tokens")

    @property
    def num_outputs(self) -> int:
        """Width of the head's output, without logits over the vocabulary (0 for ``text``)."""
        return 1 if self.kind == "regression" else len(self.names)

    def index(self, name: str) -> int:
        """Return the output position of ``name``.

        Raises:
            ValueError: If the name is unknown. The message lists the known names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(f"unknown label {name!r}; known: {', '.join(self.names)}") from None

    def bin_index(self, value: float) -> int:
        """Return the position of the bin that contains a regression value."""
        # The left bisection puts a value equal to a cutoff into the lower bin.
        return bisect.bisect_left(self.cutoffs, value)

    def bin_name(self, value: float) -> str:
        """Return the name of the bin that contains a regression value."""
        return self.names[self.bin_index(value)]

    def to_dict(self) -> dict[str, Any]:
        """Return the labels as plain JSON values."""
        return {"kind": self.kind, "names": list(self.names), "cutoffs": list(self.cutoffs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Labels":
        """Rebuild labels from the result of :meth:`to_dict`."""
        return cls(data["kind"], tuple(data["names"]), tuple(data["cutoffs"]))


def match_outputs(
    old: Labels, new: Labels, label_map: Mapping[str, str] | None = None
) -> Sequence[int | None] | None:
    """Match the outputs of two heads by label name.

    Args:
        old: Labels of the existing weights.
        new: Labels of the data of the next stage.
        label_map: Old name to new name, for different names with the same meaning.

    Returns:
        For each new output, the position of the old output with its weights, or ``None`` for an
        output to reinitialise. ``None`` instead of the list if no output matches and the whole
        head is reinitialised.

    Raises:
        ValueError: If the names match only in part and there is no ``label_map``, or if the map
            contains an unknown label, maps two old labels to one new label, or is given for kinds
            of labels without a mapping by name.

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
                f"label_map: unknown {side} labels {unknown}; known: {', '.join(known)}"
            )
    if old.kind != new.kind or old.kind == "regression":
        if label_map:
            raise ValueError(
                f"label_map cannot map {old.kind!r} labels to {new.kind!r} labels; remove label_map"
            )
        # A regression head has one output, regardless of the names of its bins.
        return [0] if old.kind == new.kind else None
    if old.kind == "masked_tokens" and not label_map and {*old.names} != {*new.names}:
        return None  # the sentence-pair part of the head has other classes, or is absent
    positions = _renamed_positions(old, label_map)
    shared = [name for name in new.names if name in positions]
    # Two contracts without names (next tokens, text) match; two without common names do not.
    if not shared and new.names:
        return None
    if not label_map and (len(shared) < len(new.names) or len(shared) < len(old.names)):
        # Guessing would either drop trained outputs or mix them with reinitialised ones.
        raise ValueError(
            f"labels match only in part: the weights have {list(old.names)}, the data have "
            f"{list(new.names)}; map them with label_map={{old: new}}, or rename all labels of the "
            "data to start with a new head"
        )
    return [positions.get(name) for name in new.names]


def _renamed_positions(old: Labels, label_map: Mapping[str, str]) -> dict[str, int]:
    """Return the position of each old output, by its new name."""
    positions: dict[str, int] = {}
    for position, name in enumerate(old.names):
        new_name = label_map.get(name, name)
        if new_name in positions:
            raise ValueError(
                f"label_map maps both {old.names[positions[new_name]]!r} and {name!r} to "
                f"{new_name!r}; a new label takes its weights from one old label"
            )
        positions[new_name] = position
    return positions
