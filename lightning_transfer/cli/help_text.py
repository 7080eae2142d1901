"""What the config folders offer: options with their first comment line, keys with their comments.

The YAML files describe themselves, in comments, and this module reads those without Hydra: help and
listings answer at once, and never drift from the files.
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
"""Groups that are shown unless others are asked for, and what a reader calls them."""

Described = dict[str, list[tuple[str, str]]]

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[^\s#:'\"\[{-][^\s:]*):(?:\s+(?P<rest>.*))?$")
_COMMENT = re.compile(r"^(?P<value>.*?)(?:(?:^|\s+)#\s*(?P<comment>.*))?$")
_PLACED = re.compile(r"(?:optional )?/?(?P<group>[\w/]+)(?:@(?P<package>[\w.]+))?")


def conf_folder() -> Path:
    """Return the folder of the configs that this package ships.

    Raises:
        ModuleNotFoundError: If they were not installed with it.
    """
    return source_folders(["pkg://lightning_transfer.conf"])[0]


def source_folders(sources: Iterable[str]) -> list[Path]:
    """Return the folders behind Hydra's search path, in its order.

    Args:
        sources: Addresses such as ``pkg://lightning_transfer.conf`` or ``file:///home/me/conf``.
            Hydra's own configs and those that are no folders (``structured://``) are left out.

    Raises:
        ModuleNotFoundError: If a ``pkg://`` source is not installed.
    """
    folders = []
    for source in sources:
        scheme, _, path = source.rpartition("://")
        if scheme == "pkg" and path not in ("hydra.conf", "hydra/conf"):
            spec = importlib.util.find_spec(path.strip("/").replace("/", "."))
            if spec is None or not spec.submodule_search_locations:
                raise ModuleNotFoundError(f"no configs at {source}; install the package anew")
            folders.append(Path(next(iter(spec.submodule_search_locations))))
        elif scheme in ("file", "") and path:
            folders.append(Path(path))
    return folders


def describe(folders: Sequence[Path], groups: Iterable[str] = tuple(TITLES)) -> Described:
    """Return each group's options, as pairs of name and what the option is.

    Args:
        folders: Config folders in the order of Hydra's search path. An option of a later folder is
            marked by where it comes from; one that an earlier folder has too cannot be reached,
            and is left out.
        groups: Names of groups, or the words that readers use for them (``domains``).

    Raises:
        ValueError: If no folder has such a group; the message names the close ones.

    Example:
        >>> dict(describe([conf_folder()], ["head"])["head"])["linear"]
        'One linear layer over pooled features'
    """
    words = {title: group for group, title in TITLES.items()}
    described: Described = {}
    for word in groups:
        group = words.get(word, word)
        if not any((folder / group).is_dir() for folder in folders):
            known = sorted({path.parent.name for f in folders for path in f.glob("*/*.yaml")})
            raise ValueError(
                f"no config group {word!r}{did_you_mean(closest(word, [*known, *words]))} "
                f"Groups: {', '.join(known)}"
            )
        options: dict[str, str] = {}
        for position, folder in enumerate(folders):
            mark = f"[{_short(folder)}] " if position else ""
            for file in sorted((folder / group).rglob("*.yaml")):
                name = file.relative_to(folder / group).with_suffix("").as_posix()
                options.setdefault(name, f"{mark}{first_comments(file)[0]}".rstrip())
        described[group] = list(options.items())
    return described


def render(described: Described, file: TextIO | None = None) -> None:
    """Print what :func:`describe` found: one line an option, cut at the width of a terminal.

    Piped into a file or another program, lines are plain and whole, so that they can be searched.

    Args:
        described: Options of each group.
        file: Where to print, standard output unless given.
    """
    from rich.console import Console
    from rich.text import Text

    file = file or sys.stdout
    whole = not file.isatty()
    console = Console(file=file, width=10_000 if whole else None, soft_wrap=whole, highlight=False)
    placed = placements(conf_folder() / "fit.yaml", [conf_folder()])
    for position, (group, options) in enumerate(described.items()):
        title = Text("\n" if position else "").append(TITLES.get(group, group), "bold")
        console.print(title.append(f"  {placed.get(group, group)}=…"))
        width = max((len(name) for name, _ in options), default=0)
        for name, comment in options:
            line = Text("  ").append(name.ljust(width), "cyan").append(f"  {comment}")
            line.rstrip()
            console.print(line, no_wrap=True, overflow="ignore" if whole else "ellipsis")


def first_comments(file: Path) -> tuple[str, str]:
    """Return the first two comment lines of a config: what it is, and the command that uses it."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        text = line.lstrip("#").strip()
        if text and not text.startswith("@package"):
            lines.append(text)
    return (*lines, "", "")[:2]  # type: ignore[return-value]


def keys(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, value and comment of each key of a config, those of Hydra left out."""
    parents: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        found = _KEY.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        parents = [parent for parent in parents if parent[0] < indent] + [(indent, found["key"])]
        rest = _COMMENT.match(found["rest"] or "")
        if rest and parents[0][1] not in ("defaults", "hydra"):
            yield ".".join(key for _, key in parents), rest["value"], rest["comment"] or ""


def about(
    key: str, *, command: str, choices: Mapping[str, str | None], folders: Sequence[Path]
) -> str:
    """Return what the configs' comments say about a key; empty when they say nothing.

    Args:
        key: Dotted key, such as ``stages.target.data.source``.
        command: Name of the primary config.
        choices: Hydra's choices: ``group@package`` to option.
        folders: Config folders in the order of Hydra's search path.
    """
    candidates = [(command, key)]
    for place, option in choices.items():
        group, _, package = place.partition("@")
        inside = key.removeprefix((package or group) + ".")
        candidates.insert(0 if inside != key else len(candidates), (f"{group}/{option}", inside))
    for name, inside in candidates:
        for folder in folders:
            file = folder / f"{name}.yaml"
            for known, _, comment in keys(file) if file.is_file() else ():
                if known == inside and comment:
                    return comment
    return ""


def placements(file: Path, folders: Sequence[Path], package: str = "") -> dict[str, str]:
    """Return how a primary config's groups are overridden: ``data@stages.target.data`` for data."""
    import yaml

    placed: dict[str, str] = {"experiment": "+experiment"}
    for item in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []):
        for place, option in item.items() if isinstance(item, dict) else ():
            found = _PLACED.fullmatch(place)
            if found is None:
                continue
            group = found["group"]
            where = ".".join(filter(None, (package, found["package"] or group)))
            placed[group] = group if where == group else f"{group}@{where}"
            if group == "stage" and any((folder / "callbacks").is_dir() for folder in folders):
                # No stage has any of its own accord.
                placed["callbacks"] = f"+callbacks@{where}.callbacks"
            files = (folder / group / f"{option}.yaml" for folder in folders)
            for below in [file for file in files if file.is_file()][:1]:
                inner = placements(below, folders, where)
                # What a stage may have of its own as well is the run's in the first place.
                placed.update({k: v for k, v in inner.items() if placed.get(k) != k})
    return placed


def command_help(command: str, folders: Sequence[Path]) -> str:
    """Return the help of one command: its keys and groups, from the comments of its configs."""
    file = folders[0] / f"{command}.yaml"
    what, example = first_comments(file)
    placed = placements(file, folders)
    lines = [what, "", f"  {example}", "", f"Keys of {command} (key=value):"]
    lines += _table(_shown(file))
    if "stage" in placed:
        package = placed["stage"].partition("@")[2]
        lines += ["", f"Keys of a stage (the stage that is always there is {package}):"]
        lines += _table(_shown(folders[0] / "stage" / "default.yaml", f"{package}."))
    else:
        del placed["experiment"]
    for group, options in describe(folders, [g for g in placed if g != "stage"]).items():
        lines += ["", f"{placed[group]}=", *_table(options)]
    return "\n".join(lines)


def _shown(file: Path, prefix: str = "") -> list[tuple[str, str]]:
    """Return a config's keys as they are typed, without those that only hold others."""
    found = keys(file)
    return [(f"{prefix}{key}={value}", what) for key, value, what in found if value or what]


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lay out two columns, the second wrapped beside the first."""
    total = shutil.get_terminal_size((80, 24)).columns
    first = max((len(name) for name, _ in rows), default=0)
    first = min(first, max(total // 2 - 4, 20))
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(total - first - 4, 20)) or [""]
        if len(name) > first:
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {left:{first}}  {right}".rstrip() for left, right in _pairs(name, wrapped)]
    return lines


def _pairs(name: str, wrapped: Sequence[str]) -> Iterator[tuple[str, str]]:
    for position, text in enumerate(wrapped):
        if text or name:
            yield ("" if position else name), text


def _short(folder: Path) -> str:
    """Return the folder as the user would type it: relative where that is shorter."""
    cwd = Path.cwd()
    return str(folder.relative_to(cwd)) if folder.is_relative_to(cwd) else str(folder)
