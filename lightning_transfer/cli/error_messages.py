"""Errors as a user reads them: one clear line, and the names that were meant.

Hydra's messages name what failed, but not what was meant. No hydra here: the command line hands its
composer over.
"""

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.suggestions import closest, closest_keys, did_you_mean, dotted

_SHORT_LIST = 12  # options beyond these are named only when they are close


# Their errors speak of what the user asked for.
_LIBRARIES = {"hydra", "omegaconf", "wandb"}


class Composer(Protocol):
    """What composes a config, and knows its groups."""

    def plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the composed config, Hydra's part included, interpolations as they are."""

    def options(self, group: str) -> list[str]:
        """Return a group's options; the primary configs for an empty name; none if unknown."""


def report(error: BaseException, verbose: bool, where: str = "") -> int:
    """Print an error to standard error: a line for the user's mistakes, a traceback for ours.

    Args:
        error: What was raised.
        verbose: Whether the user's mistakes get their traceback too.
        where: What the line begins with, such as the job of a sweep.

    Returns:
        Exit code: 2 for a command line that cannot be run, otherwise 1.
    """
    usage = isinstance(error, UsageError)
    known = _is_users(error)
    if verbose or not known:
        traceback.print_exception(error)
    if known:
        hint = "" if usage or verbose else "\n       (-v shows the traceback)"
        print(f"error: {where}{told(error)}{hint}", file=sys.stderr)
    elif where:
        print(f"error: {where}{type(error).__name__}", file=sys.stderr)
    return 2 if usage else 1


def told(error: BaseException) -> str:
    """Return what an error says, in the words of what caused it."""
    cause = error
    while type(cause).__name__ == "InstantiationException" and cause.__cause__ is not None:
        cause = cause.__cause__
    text = tidy(cause) if _is_users(cause) else f"{type(cause).__name__}: {cause}"
    key = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (at {key[1]})" if key and cause is not error and key[1] not in text else text


def is_of_config(error: BaseException) -> bool:
    """Return whether an error outside of a job comes from the command line or its configs."""
    return type(error) is ValueError or _roots(error) & {"hydra", "omegaconf"} != set()


def explain(error: Exception, overrides: Sequence[str], composer: Composer) -> str:
    """Return a message for an error of composing a config.

    Args:
        error: What Hydra raised.
        overrides: The line's overrides.
        composer: Composes again without the offending override, to see what could be meant.
    """
    named = getattr(error, "override", None)
    if named is not None:
        key, _, value = named.partition("=")
        return f"cannot read {named!r}; put quotes around the value: '{key}=\"{value}\"'"
    message = tidy(error)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and "primary config" in message:
        configs = composer.options("")
        near = did_you_mean(closest(missing, configs))
        return f"no primary config {missing!r}{near} There are {', '.join(configs) or 'none'}"
    offender, config = _offender(error, overrides, composer)
    if offender is None:
        return message
    key, _, value = offender.partition("=")
    key = key.lstrip("+~")
    group = key.partition("@")[0]
    if missing and missing in {f"{group}/{part}" for part in re.split(r"[\[\],]", value)}:
        return _no_option(offender, group, missing.removeprefix(f"{group}/"), composer)
    if f"'{key}'" in message or f"'{group}'" in message:
        if re.search("Could not (override|delete)|does not exist|No match", message):
            return _no_key(offender, key, group, config, composer)
    if offender in message or key in message:
        return message
    return f"{offender}: {message}"


def appended(overrides: Sequence[str], composer: Composer) -> str:
    """Return what is wrong with ``+key=value`` overrides that nothing will read, or nothing.

    Hydra lets any key be added, so a typo such as ``+experimant=x`` would be without effect. Keys
    below known ones are left to those who read them.
    """
    added = {
        override: override.partition("=")[0].lstrip("+")
        for override in overrides
        if override.startswith("+") and not re.match(r"\++hydra[./]", override)
    }
    added = {o: key for o, key in added.items() if not composer.options(key.partition("@")[0])}
    if not added:
        return ""
    config = composer.plain([override for override in overrides if override not in added])
    for override, key in added.items():
        if re.split(r"[.@]", key)[0] not in config:
            return _no_key(override, key, key.partition("@")[0], config, composer)
    return ""


def emptied(overrides: Sequence[str], composer: Composer) -> str:
    """Return what is wrong with ``key={}`` overrides that take nothing away, or nothing.

    Hydra merges mappings, so an empty one leaves all that was there.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if value.replace(" ", "") != "{}" or key.startswith(("+", "~", "hydra.")):
            continue
        there: Any = composer.plain([o for o in overrides if o != override])
        for part in key.split("."):
            there = there.get(part) if isinstance(there, dict) else None
        if there and isinstance(there, dict):
            away = " ".join(f"'~{key}.{name}'" for name in there)
            return f"{override} takes nothing away, since mappings are merged; write {away}"
    return ""


def tidy(error: BaseException) -> str:
    """Return an error's message without Hydra's and OmegaConf's trimmings."""
    text = str(error) if str(error) or error.__cause__ is None else str(error.__cause__)
    text = re.split(r"\n+(?:Config search path:|Search path:|See https://|To append to)", text)[0]
    text = re.sub(r", set env var HYDRA_FULL_ERROR=1 to see chained exception\.?", "", text)
    text = re.sub(r"\n\s*object_type=\S+", "", text)
    key = re.search(r"\n\s*full_key: (\S+)", text)
    text = re.sub(r"\n\s*full_key: \S*", "", text).strip()
    if key and key[1] not in text:
        text += f" (at {key[1]})"
    return text or type(error).__name__


def _offender(
    error: Exception, overrides: Sequence[str], composer: Composer
) -> tuple[str | None, Mapping[str, Any]]:
    """Return the override without which the error goes away, and the config without it."""
    message = str(error)

    def is_named(override: str) -> bool:
        key, _, value = override.lstrip("+~").partition("=")
        return f"'{key}'" in message or f"/{value}'" in message

    for override in sorted(overrides, key=is_named, reverse=True):
        rest = [other for other in overrides if other != override]
        try:
            return override, composer.plain(rest)
        except Exception as other_error:
            if str(other_error) != message:  # it is the first of several mistakes
                return override, _whatever_composes(rest, composer)
    return None, {}


def _whatever_composes(overrides: Sequence[str], composer: Composer) -> Mapping[str, Any]:
    kept: list[str] = []
    config: Mapping[str, Any] = {}
    for override in [None, *overrides]:
        tried = [*kept, override] if override else kept
        try:
            config, kept = composer.plain(tried), tried
        except Exception:
            continue
    return config


def _no_option(override: str, group: str, value: str, composer: Composer) -> str:
    options = composer.options(group)
    near = closest(value, options)
    message = f"no option {value!r} in group {group!r} ({override}){did_you_mean(near)}"
    return f"{message} Options: {', '.join(options)}" if len(options) <= _SHORT_LIST else message


def _no_key(
    override: str, key: str, group: str, config: Mapping[str, Any], composer: Composer
) -> str:
    """Return the message for a key or group that is not there."""
    value = override.partition("=")[2]
    task = {name: part for name, part in config.items() if name != "hydra"}
    chosen = config.get("hydra", {}).get("runtime", {}).get("choices", {})
    places = [place for place in chosen if not place.startswith("hydra/")]
    options = composer.options(group)
    if options and group == key and not any(place.partition("@")[0] == group for place in places):
        listed = ", ".join(options[:_SHORT_LIST])
        return f"{group} is added, not changed: use +{override} (options: {listed})"
    if options:
        own = [place for place in places if place.partition("@")[0] == group]
        near = closest(key, own) or own
        return f"no {key!r} in this config{did_you_mean([f'{place}={value}' for place in near])}"
    groups = [] if "." in key else [g for g in ("experiment",) if g not in chosen]
    keys = [] if "@" in key else dotted(task)
    near = closest_keys(key, [*keys, *places, *groups])
    near = [f"+{name}" if name in groups else name for name in near]
    message = f"unknown key {key!r} in {override!r}{did_you_mean(near)}"
    parent = key.rpartition(".")[0]
    if not near and parent in dotted(task) and not override.startswith("+"):
        message += f" A new key is added by +{override}"
    return message


def _roots(error: BaseException) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def _is_users(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    known = isinstance(error, ValueError | OSError | ImportError)
    return known or "MisconfigurationException" in names or bool(_roots(error) & _LIBRARIES)
