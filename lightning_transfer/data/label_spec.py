"""Specification of a label column: kind of label, class names and bins."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_transfer.utils import Labels
from lightning_transfer.utils.suggestions import closest, did_you_mean

KINDS = ("regression", "binned", "single_label", "multi_label")


@dataclass(frozen=True)
class LabelSpec:
    """Content of a label column, and its conversion to targets.

    Args:
        kind: Kind of label:

            - ``regression``: a number, learned as a number;
            - ``binned``: a number, learned as the class of the bin that contains it;
            - ``single_label``: one class name per row;
            - ``multi_label``: any number of class names per row.
        names: Class names in output order, required for ``binned``. For ``regression``, optional
            names of the bins used by accuracy and F1. ``None``: the sorted distinct names in the
            data.
        cutoffs: For ``regression`` and ``binned``: limits between the bins in ascending order, one
            fewer than ``names``, in units of the label value. A value equal to a cutoff is in the
            lower bin (see ``Labels.bin_name``).
        values: Value in the column -> class name, or number for ``regression`` and ``binned``, such
            as ``{"0": "negative", "1": "positive"}``. Other values are used unchanged.
        separator: Separator of the class names in one cell, for ``multi_label``. It is not needed
            for cells with a list.

    Raises:
        ValueError: If the kind is unknown, or ``names`` and ``cutoffs`` do not fit it.

    Example:
        >>> spec = LabelSpec("binned", names=["negative", "positive"], cutoffs=[0.0])
        >>> labels = spec.declared_labels()
        >>> spec.parse("-1.5", labels), spec.parse(2, labels)
        (0, 1)
    """

    kind: str = "regression"
    names: Sequence[str] | None = None
    cutoffs: Sequence[float] = ()
    values: Mapping[Any, Any] | None = None
    separator: str = "|"

    def __post_init__(self) -> None:
        """Convert lists to tuples, and check the arguments against each other."""
        if self.kind not in KINDS:
            raise ValueError(f"label.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        # A frozen dataclass refuses plain assignment.
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "cutoffs", tuple(float(cut) for cut in self.cutoffs or ()))
        # A YAML key 0, a csv cell "0" and a jsonl value 0.0 must match.
        values = {_canonical(raw): value for raw, value in (self.values or {}).items()}
        object.__setattr__(self, "values", values)
        if self.kind in ("single_label", "multi_label") and self.cutoffs:
            raise ValueError(
                f"label.cutoffs needs numbers, got {list(self.cutoffs)} for "
                f"label.kind={self.kind}; set data.label.kind=binned or remove label.cutoffs"
            )
        self.declared_labels()  # raises for names and cutoffs that do not fit

    def declared_labels(self) -> Labels | None:
        """Return the labels if the specification alone defines them, else ``None``."""
        names = self.names or ()
        if self.kind == "regression":
            return Labels("regression", tuple(names), tuple(self.cutoffs))
        if self.kind == "binned":
            # Built only for its check of names against cutoffs: the targets are classes.
            Labels("regression", tuple(names), tuple(self.cutoffs))
            return Labels("single_label", tuple(names))
        if not names and self.values:
            names = tuple(dict.fromkeys(str(name) for name in self.values.values()))
        return self._class_labels(names) if names else None

    def infer_labels(self, raws: Iterable[object]) -> Labels:
        """Return the labels, with class names from the data if the specification has none.

        Args:
            raws: The label column.

        Raises:
            ValueError: If the data have fewer than two classes for ``single_label``, or none for
                ``multi_label``.
        """
        declared = self.declared_labels()
        if declared is not None:
            return declared
        names = sorted({name for raw in raws for name in self._names(raw)})
        fewest = 2 if self.kind == "single_label" else 1
        if len(names) < fewest:
            raise ValueError(
                f"label.kind={self.kind} needs at least {fewest} classes, the data have {names}"
            )
        return self._class_labels(names)

    def parse(self, raw: object, labels: Labels | None) -> float | int | list[int]:
        """Return the target of one cell.

        Args:
            raw: The cell.
            labels: Labels from :meth:`declared_labels` or :meth:`infer_labels`.

        Returns:
            The number for ``regression``, the class position for ``binned`` and ``single_label``,
            the sorted class positions for ``multi_label``.

        Raises:
            ValueError: If the cell is empty, is not a finite number, or is an unknown label. Empty
                cells are allowed for ``multi_label``.
        """
        assert labels is not None
        if self.kind == "multi_label":
            return sorted({position_of("label", name, labels) for name in self._names(raw)})
        if _is_empty(raw):
            raise ValueError("no label")
        if self.kind == "single_label":
            return position_of("label", self._names(raw)[0], labels)
        value = self._number(raw)
        if self.kind == "regression":
            return value
        return Labels("regression", labels.names, tuple(self.cutoffs)).bin_index(value)

    def _class_labels(self, names: Iterable[str]) -> Labels:
        # self.kind is a plain str, and Labels takes a Literal.
        return Labels(
            "single_label" if self.kind == "single_label" else "multi_label", tuple(names)
        )

    def _number(self, raw: object) -> float:
        assert self.values is not None
        value = self.values.get(_canonical(raw), raw)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan  # reported below, like "nan" and "inf", which float() accepts
        if not math.isfinite(number):
            raise ValueError(f"{raw!r} is not a number")
        return number

    def _names(self, raw: object) -> list[str]:
        """Return the class names in a cell, after replacement by ``values``."""
        assert self.values is not None
        if _is_empty(raw):
            return []
        cells = [raw]
        if self.kind == "multi_label" and isinstance(raw, str):
            cells = list(raw.split(self.separator))
        elif isinstance(raw, Sequence | Mapping) and not isinstance(raw, str):
            if self.kind != "multi_label" or isinstance(raw, Mapping):
                raise ValueError(
                    f"{raw!r} is not one label; for lists, set data.label.kind=multi_label"
                )
            cells = list(raw)
        keys = [_canonical(cell) for cell in cells]
        # An empty part, as in "sport||politics", is no label.
        return [str(self.values.get(key, key)) for key in keys if key]


def position_of(kind: str, name: str, labels: Labels) -> int:
    """Return the output position of a label name.

    Args:
        kind: Kind of name in the message, such as ``label``.
        name: The name to look up.
        labels: Labels of the outputs.

    Raises:
        ValueError: If the name is unknown. The message has the known names and the closest one.
    """
    if name in labels.names:
        return labels.names.index(name)
    near = did_you_mean(closest(name, labels.names, count=1))
    raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(labels.names)}{near}")


def _canonical(raw: object) -> str:
    """Return one spelling for equal labels: 1, 1.0 and "1" are the same label."""
    # str(True) is "True", but files and configs have "true".
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    return str(raw).strip()


def _is_empty(raw: object) -> bool:
    if isinstance(raw, str):
        return not raw.strip()
    return raw is None or (isinstance(raw, float) and math.isnan(raw))
