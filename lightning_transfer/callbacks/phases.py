"""Phases of an unfreezing schedule: trainable depths and start of each phase."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from lightning_transfer.utils.suggestions import closest, did_you_mean

STARTS = ("at_epoch", "at_step", "at_fraction", "at_plateau")
SHORTHANDS = (
    "one layer an epoch, one layer every 2 epochs (50 steps, 5 %), chain-thaw, or blocks such as "
    "head > top 2 > all"
)


@dataclass(frozen=True)
class Plateau:
    """Plateau of a validation metric: the metric has stopped improving.

    Args:
        monitor: Name of the metric, such as ``val/loss``.
        mode: ``min`` if lower values are better, ``max`` if higher values are.
        patience: Number of consecutive validations without an improvement to accept, >= 0. The
            plateau is reached with the next one.
        min_delta: Smallest change to count as an improvement (exclusive), >= 0.

    Raises:
        ValueError: If a value is out of range.
    """

    monitor: str
    mode: Literal["min", "max"] = "min"
    patience: int = 0
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mode not in ("min", "max"):
            raise ValueError(f"at_plateau.mode must be one of min, max, got {self.mode!r}")
        if not _is_count(self.patience) or self.min_delta < 0:
            raise ValueError(
                "at_plateau.patience must be an integer >= 0, and min_delta a number >= 0, got "
                f"{self.patience!r} and {self.min_delta!r}"
            )

    def improves(self, value: float, best: float | None) -> bool:
        """Return True if ``value`` is better than ``best``; NaN is never better."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = value - best if self.mode == "max" else best - value
        return gain > self.min_delta


@dataclass(frozen=True)
class Phase:
    """Trainable layers from a start until the next phase.

    Without any of the ``at_`` arguments the phase starts with the run.

    Args:
        from_depth: Lowest trainable depth; depth 0 is next to the input. Negative numbers count
            from the top (-2: the top two layers). ``head``: no layer is trainable.
        to_depth: The layers at this depth and above are frozen; None: up to the top.
        outside: True if parameters outside the layers, such as a head, are trainable.
        at_epoch: Start at this epoch, counted from 0.
        at_step: Start after this number of optimizer steps.
        at_fraction: Start after this fraction of the run's optimizer steps, in [0, 1).
        at_plateau: Start when a metric has stopped improving during the previous phase; the
            arguments of :class:`Plateau`.

    Raises:
        ValueError: If a value is out of range, or several starts are given.

    Example:
        >>> Phase(from_depth=-2, at_epoch=1).depths(7)
        range(5, 7)
    """

    from_depth: int | Literal["head"]
    to_depth: int | None = None
    outside: bool = True
    at_epoch: int | None = None
    at_step: int | None = None
    at_fraction: float | None = None
    at_plateau: Plateau | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in (("from_depth", self.from_depth), ("to_depth", self.to_depth)):
            empty = "head" if name == "from_depth" else None
            if value != empty and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name} must be an integer or {empty}, got {value!r}")
        given = [name for name in STARTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a phase must have one start, got {' and '.join(given)}")
        for name in ("at_epoch", "at_step"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise ValueError(f"{name} must be an integer >= 0, got {value!r}")
        fraction = self.at_fraction
        if fraction is not None and (isinstance(fraction, bool) or not 0 <= fraction < 1):
            raise ValueError(f"at_fraction must be in [0, 1), got {fraction!r}")

    @classmethod
    def parse(cls, given: "Phase | Mapping[str, Any]") -> "Phase":
        """Return a phase from a mapping of its arguments; a phase is returned unchanged.

        Raises:
            ValueError: If a key is unknown or missing, or a value is out of range.
        """
        if isinstance(given, Phase):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"a phase must be a mapping such as {{from_depth: 4}}, got {given!r}")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = did_you_mean(closest(str(name), known))
                raise ValueError(f"unknown phase key {name!r}{near} Keys: {', '.join(known)}")
        if "from_depth" not in given:
            raise ValueError(f"a phase must have from_depth, got {dict(given)}")
        plain = dict(given)
        if isinstance(plain.get("at_plateau"), Mapping):
            try:
                plain["at_plateau"] = Plateau(**plain["at_plateau"])
            except TypeError as error:  # an unknown or missing argument
                raise ValueError(f"at_plateau: {error}") from error
        return cls(**plain)

    def depths(self, layers: int) -> range:
        """Return the trainable depths.

        Args:
            layers: Number of layers in the stack.

        Raises:
            ValueError: If a depth does not exist.
        """
        start = (
            layers if self.from_depth == "head" else _resolve_depth(self.from_depth, layers, "from")
        )
        stop = layers if self.to_depth is None else _resolve_depth(self.to_depth, layers, "to")
        return range(start, max(start, stop))

    @property
    def start(self) -> tuple[str, float]:
        """Name and value of the start argument; the value of ``at_plateau`` is NaN."""
        for name in STARTS:
            if (value := getattr(self, name)) is not None:
                # NaN is neither before nor after any other start.
                return name, math.nan if name == "at_plateau" else value
        return "at_step", 0


def parse_phases(
    given: str | Sequence[Phase | Mapping[str, Any]], layers: int
) -> tuple[Phase, ...]:
    """Return the phases of a schedule, in order.

    Args:
        given: Phases or mappings of their arguments, or a shorthand: ``one layer an epoch``,
            ``one layer every 2 epochs`` (or ``50 steps``, ``5 %``), ``head > top 2 > all`` or
            ``chain-thaw``. The last two divide the run evenly.
        layers: Number of layers in the stack.

    Raises:
        ValueError: If a phase or shorthand is invalid, contains a missing depth, or starts before
            the previous phase.
    """
    if isinstance(given, str):
        return _parse_shorthand(given, layers)
    phases = tuple(Phase.parse(phase) for phase in given)
    if not phases:
        raise ValueError("phases is empty; give at least one phase, such as {from_depth: 0}")
    if phases[0].start[1] != 0:
        raise ValueError(
            f"the first phase must start with the run, got {_format_start(phases[0])}; remove it, "
            "or insert a phase before this one"
        )
    # Starts of the same kind can be compared here; epochs and steps only once the run is known.
    latest: dict[str, float] = {}
    for phase in phases:
        phase.depths(layers)
        kind, value = phase.start
        if value <= latest.get(kind, -math.inf):
            raise ValueError(
                f"phases must start one after another, got {_format_start(phase)} after "
                f"{kind}={latest[kind]:g}; sort the phases"
            )
        if not math.isnan(value):
            latest[kind] = value
    return phases


def _format_start(phase: Phase) -> str:
    """Return the start of a phase for messages, such as ``at_epoch=2``."""
    kind, value = phase.start
    return kind if math.isnan(value) else f"{kind}={value:g}"


def _parse_shorthand(text: str, layers: int) -> tuple[Phase, ...]:
    plain = " ".join(text.lower().split())
    every = re.fullmatch(r"one layer (?:an|every|per) (\d+(?:\.\d+)?)? ?(epochs?|steps?|%)", plain)
    if every:
        return _one_layer_every(float(every[1] or 1), every[2], layers)
    if plain in ("chain-thaw", "chain thaw"):
        return _chain_thaw(layers)
    blocks = [block.strip() for block in re.split(r"→|->|>|,", plain)]
    return tuple(
        Phase(_parse_block(block, text), at_fraction=number / len(blocks))
        for number, block in enumerate(blocks)
    )


def _one_layer_every(each: float, unit: str, layers: int) -> tuple[Phase, ...]:
    """Return the phases that train the head first, and one more layer from the top in each phase.

    Args:
        each: Length of a phase, > 0; an integer for epochs and steps.
        unit: ``epoch``, ``step`` (singular or plural) or ``%``.
        layers: Number of layers in the stack.

    Raises:
        ValueError: If ``each`` is out of range.
    """
    if each <= 0 or (unit != "%" and each != int(each)):
        raise ValueError(
            f"phases='one layer every {each:g} {unit}' must have an integer >= 1, or a % > 0"
        )
    if unit == "%":
        # Phases after the end of the run are left out, as at_fraction must be below 1.
        count = min(layers + 1, math.ceil(100 / each))
        starts = [{"at_fraction": number * each / 100} for number in range(count)]
    else:
        name = "at_epoch" if unit.startswith("epoch") else "at_step"
        starts = [{name: number * int(each)} for number in range(layers + 1)]
    return tuple(
        Phase("head" if number == 0 else layers - number, **start)  # type: ignore[arg-type]
        for number, start in enumerate(starts)
    )


def _chain_thaw(layers: int) -> tuple[Phase, ...]:
    """Return the phases of chain-thaw: the head, each layer alone, all (arXiv:1708.00524)."""
    parts = layers + 2  # phases of equal length
    single = [
        Phase(depth, depth + 1, outside=False, at_fraction=(depth + 1) / parts)
        for depth in range(layers)
    ]
    return (Phase("head", at_fraction=0.0), *single, Phase(0, at_fraction=(layers + 1) / parts))


def _parse_block(block: str, text: str) -> int | Literal["head"]:
    if block in ("head", "all"):
        return "head" if block == "head" else 0
    if top := re.fullmatch(r"top (\d+)", block):
        if int(top[1]) > 0:
            return -int(top[1])
    raise ValueError(f"phases={text!r}: unknown phase {block!r}; allowed: {SHORTHANDS}")


def _resolve_depth(depth: int, layers: int, name: str) -> int:
    """Return a depth counted from the input, in 0..layers.

    ``layers`` is the depth above all layers: the end of a range, or the start of an empty one.
    """
    if not -layers <= depth <= layers:
        raise ValueError(
            f"{name}_depth={depth} does not exist: the stack has {layers} layers at the depths "
            f"0..{layers - 1}; {name}_depth must be in {-layers}..{layers}"
        )
    return depth + layers if depth < 0 else depth


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
