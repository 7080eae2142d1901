"""Help texts read from the comments of the YAML configs.

The first comment line of a config describes an option, the trailing comment of a key describes the
key. The files are read as text, without Hydra: help appears without delay, and the comments are the
only place where a description has to be updated.
"""

import importlib.util
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from lightning_transfer.utils.suggestions import closest, did_you_mean

TITLES: Mapping[str, str] = {
    "experiment": "experiments",
    "data": "domains",
    "task": "tasks",
    "head": "heads",
    "backbone": "backbones",
    "finetuning": "fine-tuning methods",
}
"""Config groups listed by default, with their titles."""

OptionsByGroup = dict[str, list[tuple[str, str]]]
"""Config group to pairs of option and description."""

# A quoted key, a list item and a flow mapping are no keys to describe.
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[^\s#:'\"\[{-][^\s:]*):(?:\s+(?P<rest>.*))?$")
# In YAML a comment begins at the start or after white space: '#1' and a#b hold none.
_COMMENT = re.compile(r"^(?P<value>.*?)(?:(?:^|\s+)#\s*(?P<comment>.*))?$")
# An entry of a defaults list: "optional /group@package".
_DEFAULT = re.compile(r"(?:optional )?/?(?P<group>[\w/]+)(?:@(?P<package>[\w.]+))?")


def conf_folder() -> Path:
    """Return the folder of the configs shipped with this package.

    Raises:
        ModuleNotFoundError: If the configs are not installed.
    """
    return source_folders(["pkg://lightning_transfer.conf"])[0]


def source_folders(sources: Iterable[str]) -> list[Path]:
    """Return the folders of Hydra's search path, in the same order.

    Args:
        sources: Addresses such as ``pkg://lightning_transfer.conf`` or ``file:///home/me/conf``.
            Hydra's own configs and sources without a folder (``structured://``) are left out.

    Raises:
        ModuleNotFoundError: If a ``pkg://`` source is not installed.
    """
    folders = []
    for source in sources:
        scheme, _, path = source.rpartition("://")
        if scheme == "pkg" and path not in ("hydra.conf", "hydra/conf"):
            # Both pkg://a.b and pkg://a/b are valid in a search path.
            spec = importlib.util.find_spec(path.strip("/").replace("/", "."))
            if spec is None or not spec.submodule_search_locations:
                raise ModuleNotFoundError(f"no configs at {source}; reinstall the package")
            folders.append(Path(next(iter(spec.submodule_search_locations))))
        elif scheme in ("file", "") and path:
            folders.append(Path(path))
    return folders


def describe_options(
    folders: Sequence[Path], groups: Iterable[str] = tuple(TITLES)
) -> OptionsByGroup:
    """Return the options of config groups with their descriptions.

    Args:
        folders: Config folders in the order of Hydra's search path. The description of an option
            from a later folder begins with the folder. If two folders have the same option, Hydra
            uses the first one, so the other is left out.
        groups: Names of groups, or their titles (``domains``).

    Raises:
        ValueError: If no folder has such a group; the message lists the closest names.

    Example:
        >>> dict(describe_options([conf_folder()], ["head"])["head"])["linear"]
        'Linear layer on pooled features'
    """
    group_of = {title: group for group, title in TITLES.items()}
    described: OptionsByGroup = {}
    for name in groups:
        group = group_of.get(name, name)
        if not any((folder / group).is_dir() for folder in folders):
            known = sorted({path.parent.name for f in folders for path in f.glob("*/*.yaml")})
            raise ValueError(
                f"unknown config group {name!r}{did_you_mean(closest(name, [*known, *group_of]))} "
                f"Groups: {', '.join(known)}"
            )
        options: dict[str, str] = {}
        for position, folder in enumerate(folders):
            prefix = f"[{_display_path(folder)}] " if position else ""
            for file in sorted((folder / group).rglob("*.yaml")):
                option = file.relative_to(folder / group).with_suffix("").as_posix()
                options.setdefault(option, f"{prefix}{first_comments(file)[0]}".rstrip())
        described[group] = list(options.items())
    return described


def print_options(described: OptionsByGroup, file: TextIO | None = None) -> None:
    """Print options, one a line.

    On a terminal lines are cut at its width. In a pipe they are complete and without colour, so
    that other programs can search them.

    Args:
        described: Result of :func:`describe_options`.
        file: Text stream, by default the standard output.
    """
    # Imported here because this module answers --help, which does not need rich.
    from rich.console import Console
    from rich.text import Text

    file = file or sys.stdout
    piped = not file.isatty()
    console = Console(file=file, width=10_000 if piped else None, soft_wrap=piped, highlight=False)
    addresses = group_addresses(conf_folder() / "fit.yaml", [conf_folder()])
    for position, (group, options) in enumerate(described.items()):
        title = Text("\n" if position else "").append(TITLES.get(group, group), "bold")
        console.print(title.append(f"  {addresses.get(group, group)}=…"))
        width = max((len(name) for name, _ in options), default=0)
        for name, comment in options:
            line = Text("  ").append(name.ljust(width), "cyan").append(f"  {comment}")
            line.rstrip()
            console.print(line, no_wrap=True, overflow="ignore" if piped else "ellipsis")


def first_comments(file: Path) -> tuple[str, str]:
    """Return the first two comment lines of a config: its description and an example command."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        text = line.lstrip("#").strip()
        if text and not text.startswith("@package"):  # a directive to Hydra
            lines.append(text)
    return (*lines, "", "")[:2]  # type: ignore[return-value]


def read_keys(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, value and comment of each key of a config, without Hydra's own keys."""
    # A YAML parser would drop the comments, and the values would lose the form in the file.
    parents: list[tuple[int, str]] = []  # (indent, key)
    for line in file.read_text(encoding="utf-8").splitlines():
        found = _KEY.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        parents = [parent for parent in parents if parent[0] < indent] + [(indent, found["key"])]
        rest = _COMMENT.match(found["rest"] or "")
        if rest and parents[0][1] not in ("defaults", "hydra"):
            yield ".".join(key for _, key in parents), rest["value"], rest["comment"] or ""


def key_comment(
    key: str, *, command: str, choices: Mapping[str, str | None], folders: Sequence[Path]
) -> str:
    """Return the comment of a key in the config files, empty if there is none.

    Args:
        key: Dotted key, such as ``stages.target.data.source``.
        command: Name of the primary config.
        choices: Hydra's choices: ``group@package`` to option.
        folders: Config folders in the order of Hydra's search path.
    """
    candidates = [(command, key)]  # (config, key inside of it)
    for address, option in choices.items():
        group, _, package = address.partition("@")
        inside = key.removeprefix((package or group) + ".")
        # The config of a group with the key in its package is the most likely place.
        candidates.insert(0 if inside != key else len(candidates), (f"{group}/{option}", inside))
    for name, inside in candidates:
        for folder in folders:
            file = folder / f"{name}.yaml"
            for known, _, comment in read_keys(file) if file.is_file() else ():
                if known == inside and comment:
                    return comment
    return ""


def group_addresses(file: Path, folders: Sequence[Path], package: str = "") -> dict[str, str]:
    """Return each config group's address on the command line, from the defaults of a config.

    Args:
        file: Config with a defaults list.
        folders: Config folders, to read the defaults of the options that the list selects.
        package: Package of the config, empty for a primary config.

    Returns:
        Group to address: ``data`` to ``data@stages.target.data``.
    """
    import yaml

    addresses: dict[str, str] = {"experiment": "+experiment"}  # in no defaults list, so added
    for item in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []):
        for default, option in item.items() if isinstance(item, dict) else ():
            found = _DEFAULT.fullmatch(default)
            if found is None:  # an override of one of Hydra's groups
                continue
            group = found["group"]
            where = ".".join(filter(None, (package, found["package"] or group)))
            addresses[group] = group if where == group else f"{group}@{where}"
            if group == "stage" and any((folder / "callbacks").is_dir() for folder in folders):
                # A stage has no callbacks by default, so no defaults list contains the group.
                addresses["callbacks"] = f"+callbacks@{where}.callbacks"
            files = (folder / group / f"{option}.yaml" for folder in folders)
            for below in [file for file in files if file.is_file()][:1]:
                inner = group_addresses(below, folders, where)
                # The run and a stage both have a backbone; the address of the run is shown.
                addresses.update({k: v for k, v in inner.items() if addresses.get(k) != k})
    return addresses


def command_help(command: str, folders: Sequence[Path]) -> str:
    """Return the help text of a command: its keys and groups with the comments of the configs."""
    file = folders[0] / f"{command}.yaml"
    description, example = first_comments(file)
    addresses = group_addresses(file, folders)
    lines = [description, "", f"  {example}", "", f"Keys of {command} (key=value):"]
    lines += _format_table(_key_rows(file))
    if "stage" in addresses:
        package = addresses["stage"].partition("@")[2]
        lines += ["", f"Keys of a stage (here {package}, the stage of the default config):"]
        lines += _format_table(_key_rows(folders[0] / "stage" / "default.yaml", f"{package}."))
    else:
        del addresses["experiment"]  # experiments are configs of fit
    groups = [group for group in addresses if group != "stage"]
    for group, options in describe_options(folders, groups).items():
        lines += ["", f"{addresses[group]}=", *_format_table(options)]
    return "\n".join(lines)


def _key_rows(file: Path, prefix: str = "") -> list[tuple[str, str]]:
    """Return the keys of a config as typed on the command line, with their comments."""
    # A key with neither a value nor a comment only contains other keys.
    return [
        (f"{prefix}{key}={value}", comment)
        for key, value, comment in read_keys(file)
        if value or comment
    ]


def _format_table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines of a table with two columns; the text of the second one is wrapped."""
    total = shutil.get_terminal_size((80, 24)).columns
    first = max((len(name) for name, _ in rows), default=0)
    first = min(first, max(total // 2 - 4, 20))
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(total - first - 4, 20)) or [""]
        if len(name) > first:  # too long for its column: a line for the name alone
            lines.append(f"  {name}")
            name = ""
        for right in wrapped:
            if name or right:
                lines.append(f"  {name:{first}}  {right}".rstrip())
            name = ""
    return lines


def _display_path(folder: Path) -> str:
    """Return a folder as a relative path if it is below the working directory."""
    cwd = Path.cwd()
    return str(folder.relative_to(cwd)) if folder.is_relative_to(cwd) else str(folder)
