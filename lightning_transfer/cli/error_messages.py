"""Error messages of the command line: one clear line with the closest valid names.

Hydra's messages contain the wrong name but no suggestion. This module finds the override that
caused an error and suggests a corrected one. It does not import Hydra; the caller passes a composer
of configs.
"""

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.suggestions import closest, closest_keys, did_you_mean, dotted

_SHORT_LIST = 12  # a longer list of options would hide the message, so it is left out

# Packages with errors about the user's input, such as a wrong override or a missing API key.
_LIBRARIES = {"hydra", "omegaconf", "wandb"}


class Composer(Protocol):
    """Composer of configs."""

    def compose_plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the composed config with Hydra's part and unresolved interpolations."""

    def options(self, group: str) -> list[str]:
        """Return the options of a group, empty if it is unknown; ``""`` for primary configs."""


def report(error: BaseException, verbose: bool, where: str = "") -> int:
    """Print an error to standard error.

    A user's mistake is printed in one line. A bug is printed with its traceback.

    Args:
        error: The exception.
        verbose: True to print the traceback of a user's mistake too.
        where: Prefix of the message, such as the job of a sweep.

    Returns:
        Exit code: 2 for a wrong command line, else 1.
    """
    usage = isinstance(error, UsageError)
    users = _is_user_error(error)
    if verbose or not users:
        traceback.print_exception(error)
    if users:
        # A wrong command line needs no traceback, so the hint is left out.
        hint = "" if usage or verbose else "\n       (-v shows the traceback)"
        print(f"error: {where}{message_of(error)}{hint}", file=sys.stderr)
    elif where:  # the traceback does not contain the job
        print(f"error: {where}{type(error).__name__}", file=sys.stderr)
    return 2 if usage else 1


def message_of(error: BaseException) -> str:
    """Return the message of an error, for Hydra's wrapper the message of its cause."""
    cause = error
    # `hydra.utils.instantiate` wraps an error once for each level of nested configs.
    while type(cause).__name__ == "InstantiationException" and cause.__cause__ is not None:
        cause = cause.__cause__
    text = clean_message(cause) if _is_user_error(cause) else f"{type(cause).__name__}: {cause}"
    key = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (at {key[1]})" if key and cause is not error and key[1] not in text else text


def is_config_error(error: BaseException) -> bool:
    """Return whether an error comes from the command line or a config file.

    Only for errors raised outside of a job: a ``ValueError`` of Hydra's own code, such as two
    flags that exclude each other, counts too.
    """
    return type(error) is ValueError or _root_packages(error) & {"hydra", "omegaconf"} != set()


def explain(error: Exception, overrides: Sequence[str], composer: Composer) -> str:
    """Return the message for an error in composing a config.

    Args:
        error: Exception raised by Hydra.
        overrides: Overrides of the command line.
        composer: Composes the config again without the wrong override, to find close names.
    """
    unreadable = getattr(error, "override", None)  # set by Hydra's OverrideParseException
    if unreadable is not None:
        key, _, value = unreadable.partition("=")
        return f"cannot parse {unreadable!r}; quote the value: '{key}=\"{value}\"'"
    message = clean_message(error)
    missing = getattr(error, "missing_cfg_file", None)  # set by MissingConfigException
    if missing and "primary config" in message:
        configs = composer.options("")
        suggestion = did_you_mean(closest(missing, configs))
        return (
            f"unknown primary config {missing!r}{suggestion} Configs: {', '.join(configs) or '-'}"
        )
    override, config = _find_wrong_override(error, overrides, composer)
    if override is None:
        return message
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    group = key.partition("@")[0]
    # A list of options, backbone=[a,b], is one override; any of them may be the missing one.
    if missing and missing in {f"{group}/{part}" for part in re.split(r"[\[\],]", value)}:
        return _unknown_option_message(override, group, missing.removeprefix(f"{group}/"), composer)
    if f"'{key}'" in message or f"'{group}'" in message:
        if re.search("Could not (override|delete)|does not exist|No match", message):
            return _unknown_key_message(override, key, group, config, composer)
    if override in message or key in message:
        return message
    # The error is in a config file; the override is the one that selects the file.
    return f"{override}: {message}"


def added_key_error(overrides: Sequence[str], composer: Composer) -> str:
    """Return the message for a ``+key=value`` override without effect, or an empty string.

    Hydra accepts any added key, so a typo such as ``+experimant=x`` would have no effect. Keys
    below a known key are not checked here, because their class checks its arguments.
    """
    added = {
        override: override.partition("=")[0].lstrip("+")
        for override in overrides
        if override.startswith("+") and not re.match(r"\++hydra[./]", override)
    }
    added = {o: key for o, key in added.items() if not composer.options(key.partition("@")[0])}
    if not added:
        return ""
    config = composer.compose_plain([override for override in overrides if override not in added])
    for override, key in added.items():
        if re.split(r"[.@]", key)[0] not in config:
            return _unknown_key_message(override, key, key.partition("@")[0], config, composer)
    return ""


def empty_mapping_error(overrides: Sequence[str], composer: Composer) -> str:
    """Return the message for a ``key={}`` override without effect, or an empty string.

    Hydra merges mappings, so an empty one does not remove the entries of the config.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if value.replace(" ", "") != "{}" or key.startswith(("+", "~", "hydra.")):
            continue
        present: Any = composer.compose_plain([o for o in overrides if o != override])
        for part in key.split("."):
            present = present.get(part) if isinstance(present, dict) else None
        if present and isinstance(present, dict):
            deletions = " ".join(f"'~{key}.{name}'" for name in present)
            return f"{override} removes nothing because Hydra merges mappings; use {deletions}"
    return ""


def clean_message(error: BaseException) -> str:
    """Return the message of an error without the hints that Hydra and OmegaConf append.

    The search path and the advice to set ``HYDRA_FULL_ERROR`` are removed, because this command
    line has its own. The key of an OmegaConf error is kept, in parentheses.
    """
    text = str(error) if str(error) or error.__cause__ is None else str(error.__cause__)
    text = re.split(r"\n+(?:Config search path:|Search path:|See https://|To append to)", text)[0]
    text = re.sub(r", set env var HYDRA_FULL_ERROR=1 to see chained exception\.?", "", text)
    text = re.sub(r"\n\s*object_type=\S+", "", text)
    key = re.search(r"\n\s*full_key: (\S+)", text)
    text = re.sub(r"\n\s*full_key: \S*", "", text).strip()
    if key and key[1] not in text:
        text += f" (at {key[1]})"
    return text or type(error).__name__


def _find_wrong_override(
    error: Exception, overrides: Sequence[str], composer: Composer
) -> tuple[str | None, Mapping[str, Any]]:
    """Return the override that causes an error, and the config without it.

    Composing is repeated without one override at a time. The wrong one is found if the config
    composes without it, or fails with another message.
    """
    message = str(error)

    def is_named(override: str) -> bool:
        key, _, value = override.lstrip("+~").partition("=")
        return f"'{key}'" in message or f"/{value}'" in message

    # The overrides named in the message first: mostly the first try succeeds, and each is slow.
    for override in sorted(overrides, key=is_named, reverse=True):
        rest = [other for other in overrides if other != override]
        try:
            return override, composer.compose_plain(rest)
        except Exception as other_error:
            if str(other_error) != message:  # there is a second wrong override
                return override, _compose_valid(rest, composer)
    return None, {}


def _compose_valid(overrides: Sequence[str], composer: Composer) -> Mapping[str, Any]:
    """Return the config composed of the overrides that raise no error."""
    valid: list[str] = []
    config: Mapping[str, Any] = {}
    for override in [None, *overrides]:
        candidate = [*valid, override] if override else valid
        try:
            config, valid = composer.compose_plain(candidate), candidate
        except Exception:
            continue
    return config


def _unknown_option_message(override: str, group: str, option: str, composer: Composer) -> str:
    options = composer.options(group)
    key, _, value = override.partition("=")
    near = [f"{key}={name}" if value == option else name for name in closest(option, options)]
    message = f"unknown option {option!r} of group {group!r} in {override!r}{did_you_mean(near)}"
    return f"{message} Options: {', '.join(options)}" if len(options) <= _SHORT_LIST else message


def _unknown_key_message(
    override: str, key: str, group: str, config: Mapping[str, Any], composer: Composer
) -> str:
    """Return the message for an override of a key or group that is not in the config.

    Args:
        override: The override, with its prefix ``+`` or ``~``.
        key: Key of the override without the prefix.
        group: Part of the key before ``@``.
        config: Config composed without the override.
        composer: Lists the options of a group.
    """
    _, equals, value = override.partition("=")
    value = equals + value
    delete = "~" if override.startswith("~") else ""
    task = {name: part for name, part in config.items() if name != "hydra"}
    # Groups of this config with their packages, such as data@stages.target.data.
    chosen = config.get("hydra", {}).get("runtime", {}).get("choices", {})
    groups = [place for place in chosen if not place.startswith("hydra/")]
    options = composer.options(group)
    same_group = [place for place in groups if place.partition("@")[0] == group]
    if options and group == key and not same_group:  # a group that no default selects
        listed = ", ".join(options[:_SHORT_LIST])
        return f"{group!r} is not in this config; add it with +{override}. Options: {listed}"
    if options:  # a group without its package, or with a wrong one
        near = [f"{delete}{place}{value}" for place in closest(key, same_group) or same_group]
        return f"unknown key {key!r} in {override!r}{did_you_mean(near)}"
    addable = [] if "." in key else [name for name in ("experiment",) if name not in chosen]
    keys = [] if "@" in key else dotted(task)
    near = [
        f"{'+' if name in addable else delete}{name}{value}"
        for name in closest_keys(key, [*keys, *groups, *addable])
    ]
    message = f"unknown key {key!r} in {override!r}{did_you_mean(near)}"
    parent = key.rpartition(".")[0]
    if not near and parent in dotted(task) and not override.startswith("+"):
        message += f" To add a new key, use +{override}"
    return message


def _root_packages(error: BaseException) -> set[str]:
    """Return the top-level packages of an error's class and its bases."""
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def _is_user_error(error: BaseException) -> bool:
    """Return whether an error is a mistake in the input, not a bug of this package."""
    # By name, because importing Lightning takes seconds.
    names = {kind.__name__ for kind in type(error).__mro__}
    known = isinstance(error, ValueError | OSError | ImportError)
    return known or "MisconfigurationException" in names or bool(_root_packages(error) & _LIBRARIES)
