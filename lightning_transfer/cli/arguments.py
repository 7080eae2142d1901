"""The words of a command line: command, flags and overrides, in any order. No hydra, no torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_transfer.cli import help_text
from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.suggestions import closest, did_you_mean

FLAGS_HELP = """\
Flags, anywhere among the overrides:
  -h, --help             help; after a command, its keys and groups
  -v, --verbose          tracebacks, and messages for debugging
  --version              the version of this package
  -m, --multirun         one run for each combination of a=1,2,3 b=x,y
  -c, --cfg WHAT         print the config instead of running: job, hydra or all
  -p, --package KEY      with --cfg: only the part below a key
  --resolve              with --cfg: with interpolations resolved
  -i, --info [WHAT]      how the config comes about: all, config, defaults,
                         defaults-tree, plugins or searchpath
  -cd, --config-dir DIR  add options from a folder of your own
  -cp, --config-path DIR, -cn, --config-name NAME
                         use a primary config of your own
  --experimental-rerun FILE
                         run a job again from its pickled config
  -sc, --shell-completion
                         install=bash prints what eval turns on
  --hydra-help           Hydra's own help"""

_SWITCHES = {
    "-h": "--help",
    "-v": "--verbose",
    "-r": "--run",
    "-m": "--multirun",
    "-sc": "--shell-completion",
    "": "--version",
    " ": "--hydra-help",
    "  ": "--resolve",
}
_VALUED = {
    "-c": "--cfg",
    "-p": "--package",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-i": "--info",
    "": "--experimental-rerun",
}
_CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
POSITIONAL = {"sweep-report": ("dir",)}
"""Command to the keys that may be left out: bare words behind it are their values, in order."""
_ALONE = {"--help", "--version", "--verbose", "--hydra-help"}  # make sense without a command


@dataclass(frozen=True)
class CommandLine:
    """A command line, sorted.

    Args:
        command: The command word, if there is one.
        flags: Flags by their long names, with their values; an empty value for a switch.
        overrides: What is left, ``key=value``, in its order.
    """

    command: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether the line runs jobs, instead of showing something."""
        return self.composes and not {"--cfg", "--info"} & self.flags.keys()

    @property
    def composes(self) -> bool:
        """Whether the line's overrides make a config."""
        return (
            not {"--hydra-help", "--shell-completion", "--experimental-rerun"} & self.flags.keys()
        )

    @property
    def hydra_words(self) -> list[str]:
        """The line as Hydra's parser wants it: flags first, and none of ours."""
        ours = ("--verbose", "--help", "--version")
        flags = [(flag, value) for flag, value in self.flags.items() if flag not in ours]
        return [word for pair in flags for word in pair if word] + list(self.overrides)


def parse(words: Sequence[str], commands: Sequence[str]) -> CommandLine:
    """Sort the words of a command line.

    Flags may stand anywhere, before the command word too.

    Raises:
        UsageError: If a flag or the command is unknown, a flag's value is missing or wrong, or a
            word is neither; the message names what is close.

    Example:
        >>> line = parse(["fit", "a=1", "-m", "b=2"], ["fit"])
        >>> line.command, line.overrides, line.hydra_words
        ('fit', ('a=1', 'b=2'), ['--multirun', 'a=1', 'b=2'])
    """
    command, flags, overrides = None, {}, []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("-") and word != "-":
            flag, value = _flag(word, left)
            flags[flag] = value
        elif "=" in word or word.startswith("~"):
            overrides.append(word)
        elif command is None:
            command = word
        elif key := _next_positional(command, overrides):
            overrides.append(f"{key}={word}")
        else:
            raise UsageError(f"{word!r} is neither a flag nor key=value{_option_like(word)}")
    asks_shell = "--shell-completion" in flags
    if command is None and (overrides or flags.keys() - _ALONE) and not asks_shell:
        raise UsageError(f"the command word is missing; put one of {', '.join(commands)} in front")
    if command is not None and command not in commands:
        near = did_you_mean(closest(command, commands))
        raise UsageError(f"unknown command {command!r}{near} Commands: {', '.join(commands)}")
    return CommandLine(command, flags, tuple(overrides))


def completing(line: CommandLine, commands: Sequence[str]) -> CommandLine | None:
    """Return the line that answers a shell's question for completions; ``None`` once answered.

    Hydra knows nothing of command words, so that they are completed here, and taken out of what it
    reads (``COMP_LINE``).
    """
    typed = os.environ.get("COMP_LINE")
    if typed is None or line.command or not any(o.startswith("query=") for o in line.overrides):
        return line
    program, _, rest = typed.lstrip().partition(" ")
    command, space, rest = rest.lstrip().partition(" ")
    if not space:
        print(" ".join(name for name in commands if name.startswith(command)))
    if not space or command not in commands:
        return None
    words = rest.split()
    last = words.pop() if words and not rest.endswith(" ") else ""
    try:
        words = parse([command, *words], commands).hydra_words
    except UsageError:
        return None
    os.environ["COMP_LINE"] = " ".join([program, *words, last])
    return replace(line, command=command)


def _next_positional(command: str, overrides: Sequence[str]) -> str | None:
    given = {override.partition("=")[0] for override in overrides}
    return next((key for key in POSITIONAL.get(command, ()) if key not in given), None)


def _flag(word: str, left: list[str]) -> tuple[str, str]:
    """Return a flag's long name and value; the value is taken from the words that are left."""
    name, equals, value = word.partition("=")
    switch, valued = _SWITCHES.get(name, name), _VALUED.get(name, name)
    if switch in _SWITCHES.values():
        if equals:
            raise UsageError(f"{switch} takes no value, got {word!r}")
        return switch, ""
    if valued not in _VALUED.values():
        known = [*_SWITCHES, *_SWITCHES.values(), *_VALUED, *_VALUED.values()]
        near = did_you_mean(closest(name, filter(str.strip, known)))
        raise UsageError(f"unknown flag {name!r}{near} --help lists the flags")
    choices = _CHOICES.get(valued, ())
    if not equals and left and (left[0] in choices or (not choices and left[0][:1] != "-")):
        value = left.pop(0)
    if not value and valued == "--info":
        value = "all"
    if not value or (choices and value not in choices):
        got = value or (left[0] if left else "nothing")
        what = f"one of {', '.join(choices)}" if choices else "a value"
        raise UsageError(f"{valued} needs {what}, got {got!r}{did_you_mean(closest(got, choices))}")
    return valued, value


def _option_like(word: str) -> str:
    """Return a suggestion for a word that is the name of an option, or close to one."""
    folder = help_text.conf_folder()
    placed = help_text.placements(folder / "fit.yaml", [folder])
    options = {
        file.stem: f"{key}={file.stem}"
        for group, key in placed.items()
        for file in (folder / group).glob("*.yaml")
    }
    return did_you_mean([options[name] for name in closest(word, options, cutoff=0.8)])
