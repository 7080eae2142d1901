"""Phases of a schedule of unfreezing: what trains, and from when on."""

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
    """When a validation metric has stopped improving.

    Args:
        monitor: Name of the metric, such as ``val/loss``.
        mode: ``min`` or ``max``: which way it is better.
        patience: Validations without an improvement that are borne, >= 0; the next one is one too
            many.
        min_delta: How much better counts as an improvement, >= 0.

    Raises:
        ValueError: If a value is out of its range.
    """

    monitor: str
    mode: Literal["min", "max"] = "min"
    patience: int = 0
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mode not in ("min", "max"):
            raise ValueError(f"at_plateau.mode must be min or max, got {self.mode!r}")
        if not _whole(self.patience) or self.min_delta < 0:
            raise ValueError(
                "at_plateau.patience must be a whole number >= 0 and min_delta >= 0, got "
                f"{self.patience!r} and {self.min_delta!r}"
            )

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than ``best``; NaN never is."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = value - best if self.mode == "max" else best - value
        return gain > self.min_delta


@dataclass(frozen=True)
class Phase:
    """What trains from some moment on, until the next phase begins.

    Args:
        from_depth: The layers at this depth and above train; depth 0 is next to the input. A
            negative number counts from the top (-2: the top two), ``head`` stands for no layer at
            all.
        to_depth: Only layers below this depth train; None: up to the top.
        outside: Whether what lies outside of the layers, such as a head, trains too.
        at_epoch: It begins with this epoch, counted from 0.
        at_step: It begins after this many optimizer steps.
        at_fraction: It begins after this fraction of the run's optimizer steps, in [0, 1).
        at_plateau: It begins when a metric has stopped improving in the phase before; the
            arguments of :class:`Plateau`.

    Raises:
        ValueError: If a value is out of its range, or there are two beginnings.

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
                raise ValueError(f"{name} must be a whole number or {empty}, got {value!r}")
        given = [name for name in STARTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a phase begins once, got {' and '.join(given)}")
        for name in ("at_epoch", "at_step"):
            value = getattr(self, name)
            if value is not None and not _whole(value):
                raise ValueError(f"{name} must be a whole number >= 0, got {value!r}")
        fraction = self.at_fraction
        if fraction is not None and (isinstance(fraction, bool) or not 0 <= fraction < 1):
            raise ValueError(f"at_fraction must be in [0, 1), got {fraction!r}")

    @classmethod
    def parse(cls, given: "Phase | Mapping[str, Any]") -> "Phase":
        """Return a phase from its plain form.

        Raises:
            ValueError: If a key is unknown or missing, or a value is out of its range.
        """
        if isinstance(given, Phase):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"a phase is a mapping such as {{from_depth: 4}}, got {given!r}")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = did_you_mean(closest(str(name), known))
                raise ValueError(f"a phase has no {name!r}{near} It takes {', '.join(known)}")
        if "from_depth" not in given:
            raise ValueError(f"a phase needs from_depth, got {dict(given)}")
        plain = dict(given)
        if isinstance(plain.get("at_plateau"), Mapping):
            try:
                plain["at_plateau"] = Plateau(**plain["at_plateau"])
            except TypeError as error:
                raise ValueError(f"at_plateau: {error}") from error
        return cls(**plain)

    def depths(self, layers: int) -> range:
        """Return the depths that train, of a stack of ``layers`` layers.

        Raises:
            ValueError: If there is no such depth.
        """
        start = layers if self.from_depth == "head" else _position(self.from_depth, layers, "from")
        stop = layers if self.to_depth is None else _position(self.to_depth, layers, "to")
        return range(start, max(start, stop))

    @property
    def start(self) -> tuple[str, float]:
        """Kind and value of the beginning; that of a plateau has none to compare."""
        for name in STARTS:
            if (value := getattr(self, name)) is not None:
                return name, math.nan if name == "at_plateau" else value
        return "at_step", 0


def parse_phases(
    given: str | Sequence[Phase | Mapping[str, Any]], layers: int
) -> tuple[Phase, ...]:
    """Return the phases of a schedule, in order.

    Args:
        given: A list of phases in their plain form, or a shorthand: ``one layer an epoch``,
            ``one layer every 2 epochs`` (or ``50 steps``, ``5 %``), ``head > top 2 > all``, whose
            blocks share the run evenly, or ``chain-thaw``, which shares it evenly too.
        layers: Depth of the stack.

    Raises:
        ValueError: If a phase or a shorthand is not understood, names a depth that does not exist,
            or begins before the one in front of it.
    """
    if isinstance(given, str):
        return _shorthand(given, layers)
    phases = tuple(Phase.parse(phase) for phase in given)
    if not phases:
        raise ValueError("phases is empty; give at least one, such as {from_depth: 0}")
    if phases[0].start[1] != 0:
        raise ValueError(
            f"the first phase begins with the run, got {_named(phases[0])}; drop that, or put a "
            "phase in front of it"
        )
    latest: dict[str, float] = {}
    for phase in phases:
        phase.depths(layers)
        kind, value = phase.start
        if value <= latest.get(kind, -math.inf):
            raise ValueError(
                f"phases begin one after another, and {_named(phase)} comes behind "
                f"{kind}={latest[kind]:g}; sort them"
            )
        if not math.isnan(value):
            latest[kind] = value
    return phases


def _named(phase: Phase) -> str:
    kind, value = phase.start
    return kind if math.isnan(value) else f"{kind}={value:g}"


def _shorthand(text: str, layers: int) -> tuple[Phase, ...]:
    words = " ".join(text.lower().split())
    every = re.fullmatch(r"one layer (?:an|every|per) (\d+(?:\.\d+)?)? ?(epochs?|steps?|%)", words)
    if every:
        return _one_by_one(float(every[1] or 1), every[2], layers)
    if words in ("chain-thaw", "chain thaw"):
        return _chain_thaw(layers)
    blocks = [block.strip() for block in re.split(r"→|->|>|,", words)]
    return tuple(
        Phase(_from_depth(block, text), at_fraction=number / len(blocks))
        for number, block in enumerate(blocks)
    )


def _one_by_one(each: float, unit: str, layers: int) -> tuple[Phase, ...]:
    """Head alone first, then one more layer each time, from the top down."""
    if each <= 0 or (unit != "%" and each != int(each)):
        raise ValueError(f"one layer every {each:g} {unit}: give a whole number >= 1, or a % > 0")
    if unit == "%":
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
    """What is new, then each layer alone from the input up, then all (arXiv:1708.00524)."""
    parts = layers + 2
    single = [
        Phase(depth, depth + 1, outside=False, at_fraction=(depth + 1) / parts)
        for depth in range(layers)
    ]
    return (Phase("head", at_fraction=0.0), *single, Phase(0, at_fraction=(layers + 1) / parts))


def _from_depth(block: str, text: str) -> int | Literal["head"]:
    if block in ("head", "all"):
        return "head" if block == "head" else 0
    if top := re.fullmatch(r"top (\d+)", block):
        if int(top[1]) > 0:
            return -int(top[1])
    raise ValueError(f"phases={text!r} is not understood at {block!r}; known: {SHORTHANDS}")


def _position(depth: int, layers: int, name: str) -> int:
    """Return a depth as counted from the input; the one above the top stands for no layer."""
    if not -layers <= depth <= layers:
        raise ValueError(
            f"{name}_depth={depth} is none of this stack: it has {layers} layers, at the depths "
            f"0..{layers - 1}; {layers} stands above all of them"
        )
    return depth + layers if depth < 0 else depth


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
