"""How a label column becomes targets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_transfer.utils import Labels
from lightning_transfer.utils.suggestions import closest, did_you_mean

KINDS = ("regression", "binned", "single_label", "multi_label")


def _key(raw: object) -> str:
    """Return the one spelling of a raw label, so that 1, 1.0 and "1" are the same label."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    return str(raw).strip()


def _is_empty(raw: object) -> bool:
    if isinstance(raw, str):
        return not raw.strip()
    return raw is None or (isinstance(raw, float) and math.isnan(raw))


@dataclass(frozen=True)
class LabelSpec:
    """What the label column holds and what is to be learned from it.

    Args:
        kind: ``rating``: a number, learned as a number. ``bands``: a number, learned as one of
            the ``names`` that ``cutoffs`` cut its scale into. ``names``: one class name a row.
            ``multi``: any number of class names a row.
        names: Class names in output order. For ``rating`` they are optional and name the bands
            that accuracy and F1 are counted in. ``None``: the sorted distinct names of the data.
        cutoffs: Ascending limits between the bands, one fewer than ``names``, in units of the
            rating. A value equal to a cut-off lies in the band below it (see ``Labels.band``).
        values: Raw value of the column -> class name (or number, for a rating), as in
            ``{"0": "negative", "1": "positive"}``; what is not listed is taken as it is.
        separator: Between the names of one ``multi`` cell; a list needs none.

    Raises:
        ValueError: If the kind is unknown, or names and cut-offs do not fit it.

    Example:
        >>> spec = LabelSpec("binned", names=["negative", "positive"], cutoffs=[0.0])
        >>> spec.parse("-1.5", spec.stated()), spec.parse(2, spec.stated())
        (0, 1)
    """

    kind: str = "regression"
    names: Sequence[str] | None = None
    cutoffs: Sequence[float] = ()
    values: Mapping[Any, Any] | None = None
    separator: str = "|"

    def __post_init__(self) -> None:
        """Bring lists into tuples and check the parts against each other."""
        if self.kind not in KINDS:
            raise ValueError(f"label.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "cutoffs", tuple(float(cut) for cut in self.cutoffs or ()))
        values = {_key(raw): value for raw, value in (self.values or {}).items()}
        object.__setattr__(self, "values", values)
        if self.kind in ("single_label", "multi_label") and self.cutoffs:
            raise ValueError(
                f"label.cutoffs cut numbers, got {list(self.cutoffs)} for label.kind={self.kind}; "
                "use label.kind=binned or drop the cut-offs"
            )
        self.stated()

    def stated(self) -> Labels | None:
        """Return the label contract if the spec alone fixes it, else ``None``."""
        names = self.names or ()
        if self.kind == "regression":
            return Labels("regression", tuple(names), tuple(self.cutoffs))
        if self.kind == "binned":
            Labels("regression", tuple(names), tuple(self.cutoffs))  # names must fit the cut-offs
            return Labels("single_label", tuple(names))
        if not names and self.values:
            names = tuple(dict.fromkeys(str(name) for name in self.values.values()))
        if not names:
            return None
        return Labels(
            "single_label" if self.kind == "single_label" else "multi_label", tuple(names)
        )

    def found(self, raws: Iterable[object]) -> Labels:
        """Return the label contract, with the names read from the data if the spec has none.

        Args:
            raws: The label column.

        Raises:
            ValueError: If the data hold fewer than two classes (``names``) or none (``multi``).
        """
        stated = self.stated()
        if stated is not None:
            return stated
        names = sorted({name for raw in raws for name in self._names(raw)})
        if len(names) < (2 if self.kind == "single_label" else 1):
            raise ValueError(
                f"label.kind={self.kind} needs at least 2 classes, the data hold {names}"
            )
        return Labels(
            "single_label" if self.kind == "single_label" else "multi_label", tuple(names)
        )

    def parse(self, raw: object, labels: Labels | None) -> float | int | list[int]:
        """Return the target of one cell.

        Args:
            raw: The cell.
            labels: The contract, from :meth:`stated` or :meth:`found`.

        Returns:
            The number for a rating, the class position for one label, the sorted class positions
            for several.

        Raises:
            ValueError: If the cell is empty, not a finite number, or no known label.
        """
        assert labels is not None
        if self.kind == "multi_label":
            return sorted({self._position(name, labels) for name in self._names(raw)})
        if _is_empty(raw):
            raise ValueError("no label")
        if self.kind == "single_label":
            return self._position(self._names(raw)[0], labels)
        rating = self._number(raw)
        if self.kind == "regression":
            return rating
        return Labels("regression", labels.names, tuple(self.cutoffs)).band_index(rating)

    def _number(self, raw: object) -> float:
        assert self.values is not None
        value = self.values.get(_key(raw), raw)
        try:
            rating = float(value)
        except (TypeError, ValueError):
            rating = math.nan
        if not math.isfinite(rating):
            raise ValueError(f"{raw!r} is not a number")
        return rating

    def _names(self, raw: object) -> list[str]:
        """Return the class names in a cell, after ``values``."""
        assert self.values is not None
        if _is_empty(raw):
            return []
        cells = [raw]
        if self.kind == "multi_label" and isinstance(raw, str):
            cells = list(raw.split(self.separator))
        elif isinstance(raw, Sequence | Mapping) and not isinstance(raw, str):
            if self.kind != "multi_label" or isinstance(raw, Mapping):
                raise ValueError(f"{raw!r} is not one label; label.kind=multi_label takes lists")
            cells = list(raw)
        keys = [_key(cell) for cell in cells]
        return [str(self.values.get(key, key)) for key in keys if key]

    def _position(self, name: str, labels: Labels) -> int:
        if name in labels.names:
            return labels.names.index(name)
        near = did_you_mean(closest(name, labels.names, count=1))
        raise ValueError(f"unknown label {name!r}; known: {', '.join(labels.names)}{near}")
