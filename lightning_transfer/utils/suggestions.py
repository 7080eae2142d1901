"""Closest names, for errors that say what was meant. No hydra, no torch."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def closest(name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are close to ``name``, the closest first.

    Example:
        >>> closest("fitt", ["fit", "test", "predict"])
        ['fit']
    """
    return difflib.get_close_matches(name, sorted(set(known)), n=count, cutoff=cutoff)


def closest_keys(key: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the dotted keys that ``key`` may have meant, the likeliest first.

    The last component weighs most, since a key is mostly typed without its parents
    (``max_epoch`` for ``trainer.max_epochs``) or wrong in its end; among equals the shared parents
    decide.

    Example:
        >>> closest_keys("max_epoch", ["trainer.max_epochs", "trainer.min_epochs", "seed"])
        ['trainer.max_epochs']
        >>> closest_keys("a.data.batchsize", ["a.data.batch_size", "b.data.batch_size"], count=1)
        ['a.data.batch_size']
    """
    scored = []
    for candidate in set(known):
        if _last(candidate).startswith("_"):  # Hydra's own, such as _target_
            continue
        last = _ratio(_last(key), _last(candidate))
        whole = _ratio(key, candidate)
        if last >= 0.75 or whole >= 0.8:
            scored.append((-(last + whole), candidate))
    best = min(scored, default=(0.0, ""))[0]
    return [name for score, name in sorted(scored) if score <= best + 0.5][:count]


def did_you_mean(names: Sequence[str]) -> str:
    """Return ``; did you mean a, b or c?`` for an error's sentence, or just its full stop.

    Example:
        >>> did_you_mean(["fit"]), did_you_mean(["a", "b"]), did_you_mean([])
        ('; did you mean fit?', '; did you mean a or b?', '.')
    """
    if not names:
        return "."
    return f"; did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?"


def dotted(config: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a plain config, containers included."""
    found = []
    for key, value in config.items() if isinstance(config, Mapping) else ():
        name = f"{prefix}{key}"
        found += [name, *dotted(value, f"{name}.")]
    return found


def _last(key: str) -> str:
    return re.split(r"[.@]", key)[-1]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
