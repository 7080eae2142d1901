"""Suggestions of close names for error messages."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def closest(name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the known names similar to ``name``, the closest first.

    Args:
        name: The name to look up.
        known: Names to choose from.
        count: Largest number of names to return, >= 1.
        cutoff: Smallest similarity, in [0, 1]; see :func:`difflib.get_close_matches`.

    Example:
        >>> closest("fitt", ["fit", "test", "predict"])
        ['fit']
    """
    return difflib.get_close_matches(name, sorted(set(known)), n=count, cutoff=cutoff)


def closest_keys(key: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the dotted keys similar to ``key``, the most likely first.

    Args:
        key: A dotted key, or the end of one.
        known: Dotted keys to choose from.
        count: Largest number of keys to return, >= 1.

    Example:
        >>> closest_keys("max_epoch", ["trainer.max_epochs", "trainer.min_epochs", "seed"])
        ['trainer.max_epochs']
        >>> closest_keys("a.data.batchsize", ["a.data.batch_size", "b.data.batch_size"], count=1)
        ['a.data.batch_size']
    """
    # A key is mostly typed without its parents (max_epoch for trainer.max_epochs), or misspelt in
    # its last component. The last component therefore counts twice: alone and in the whole key,
    # where shared parents decide between equal candidates.
    scored = []
    for candidate in set(known):
        if _last(candidate).startswith("_"):  # keys of Hydra, such as _target_
            continue
        last = _ratio(_last(key), _last(candidate))
        whole = _ratio(key, candidate)
        if last >= 0.75 or whole >= 0.8:
            scored.append((-(last + whole), candidate))
    best = min(scored, default=(0.0, ""))[0]
    # Next to a near match, much weaker ones are only noise; scores are in [-2, 0].
    return [name for score, name in sorted(scored) if score <= best + 0.5][:count]


def did_you_mean(names: Sequence[str]) -> str:
    """Return the end of an error message: ``; did you mean a, b or c?``, or a full stop.

    Args:
        names: Suggested names; may be empty.

    Example:
        >>> did_you_mean(["fit"]), did_you_mean(["a", "b"]), did_you_mean([])
        ('; did you mean fit?', '; did you mean a or b?', '.')
    """
    if not names:
        return "."
    return f"; did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?"


def dotted(config: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a plain config, keys of nested mappings included.

    Args:
        config: A mapping; any other value has no keys.
        prefix: Prepended to each key.

    Example:
        >>> dotted({"trainer": {"devices": 1}, "seed": 0})
        ['trainer', 'trainer.devices', 'seed']
    """
    found = []
    for key, value in config.items() if isinstance(config, Mapping) else ():
        name = f"{prefix}{key}"
        found += [name, *dotted(value, f"{name}.")]
    return found


def _last(key: str) -> str:
    # Packages of config groups follow an "@": task@stages.target.task
    return re.split(r"[.@]", key)[-1]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
