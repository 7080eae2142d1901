"""Parser of the command line: command, flags and overrides, in any order.

Imports neither Hydra nor torch, so that ``--help`` and usage errors appear without delay.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_transfer.cli import help_text
from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.suggestions import closest, did_you_mean

FLAGS_HELP = """\
Flags, in any position:
  -h, --help             show the help; after a command, its keys and groups
  -v, --verbose          show tracebacks and debug messages
  --version              show the version of this package
  -m, --multirun         run one job for each combination of a=1,2,3 b=x,y
  -c, --cfg WHAT         print the config and exit: job, hydra or all
  -p, --package KEY      with --cfg: print only the part below this key
  --resolve              with --cfg: resolve interpolations
  -i, --info [WHAT]      print how the config is composed: all, config, defaults,
                         defaults-tree, plugins or searchpath
  -cd, --config-dir DIR  add config options from your folder
  -cp, --config-path DIR, -cn, --config-name NAME
                         use your primary config
  --experimental-rerun FILE
                         run a job again from its pickled config
  -sc, --shell-completion
                         install=bash prints the script for eval
  --hydra-help           show Hydra's help"""

_SHORT_FLAGS = {
    "-h": "--help",
    "-v": "--verbose",
    "-r": "--run",
    "-m": "--multirun",
    "-sc": "--shell-completion",
    "-c": "--cfg",
    "-p": "--package",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-i": "--info",
}
_SWITCHES = (
    *("--help", "--verbose", "--run", "--multirun", "--shell-completion"),
    *("--version", "--hydra-help", "--resolve"),
)
_VALUED_FLAGS = (
    *("--cfg", "--package", "--config-path", "--config-name", "--config-dir"),
    *("--info", "--experimental-rerun"),
)
_CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
POSITIONAL = {"sweep-report": ("dir",)}
"""Command to its positional keys: an argument without a key becomes the value of the next one."""
_NO_COMMAND_NEEDED = {"--help", "--version", "--verbose", "--hydra-help"}


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Args:
        command: Name of the command, ``None`` if there is none.
        flags: Long names of the flags to their values; the value of a switch is empty.
        overrides: The other arguments, ``key=value``, in the order given.
    """

    command: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """True if the command line runs jobs instead of showing a config."""
        return self.composes and not {"--cfg", "--info"} & self.flags.keys()

    @property
    def composes(self) -> bool:
        """True if a config is composed from the overrides."""
        return (
            not {"--hydra-help", "--shell-completion", "--experimental-rerun"} & self.flags.keys()
        )

    @property
    def hydra_arguments(self) -> list[str]:
        """Arguments for Hydra's parser: flags first, without the flags of this package."""
        ours = ("--verbose", "--help", "--version")
        flags = [(flag, value) for flag, value in self.flags.items() if flag not in ours]
        return [part for pair in flags for part in pair if part] + list(self.overrides)


def parse(arguments: Sequence[str], commands: Sequence[str]) -> CommandLine:
    """Parse the arguments of a command line.

    Args:
        arguments: The arguments without the name of the program. Flags may come in any position,
            also before the command.
        commands: Names of the known commands.

    Raises:
        UsageError: If a flag or the command is unknown, the value of a flag is missing or wrong,
            or an argument is neither a command, a flag nor an override. The message lists the
            closest names.

    Example:
        >>> line = parse(["fit", "a=1", "-m", "b=2"], ["fit"])
        >>> line.command, line.overrides, line.hydra_arguments
        ('fit', ('a=1', 'b=2'), ['--multirun', 'a=1', 'b=2'])
    """
    command, flags, overrides = None, {}, []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        # A single "-" stands for standard input or output, so it is no flag.
        if argument.startswith("-") and argument != "-":
            flag, value = _parse_flag(argument, remaining)
            flags[flag] = value
        elif "=" in argument or argument.startswith("~"):  # Hydra's ~key deletes a key
            overrides.append(argument)
        elif command is None:
            command = argument
        elif key := _next_positional_key(command, overrides):
            overrides.append(f"{key}={argument}")
        else:
            raise UsageError(
                f"argument {argument!r} is neither a flag nor an override key=value"
                f"{_suggest_option(argument)}"
            )
    # Shell completion is installed for the program, not for one of its commands.
    if command is None and "--shell-completion" not in flags:
        if overrides or flags.keys() - _NO_COMMAND_NEEDED:
            raise UsageError(f"missing command; add one of {', '.join(commands)}")
    if command is not None and command not in commands:
        suggestion = did_you_mean(closest(command, commands))
        raise UsageError(f"unknown command {command!r}{suggestion} Commands: {', '.join(commands)}")
    return CommandLine(command, flags, tuple(overrides))


def complete_command(line: CommandLine, commands: Sequence[str]) -> CommandLine | None:
    """Complete the name of the command, or prepare Hydra to complete the overrides.

    Hydra has no commands. This function completes their names, and removes the command from the
    text that Hydra completes (the environment variable ``COMP_LINE``, which the shell sets).

    Args:
        line: Parsed ``-sc`` command line.
        commands: Names of the known commands.

    Returns:
        The command line for Hydra, or ``None`` if nothing is left to complete.
    """
    typed = os.environ.get("COMP_LINE")
    if typed is None or line.command or not any(o.startswith("query=") for o in line.overrides):
        return line
    program, _, rest = typed.lstrip().partition(" ")
    command, space, rest = rest.lstrip().partition(" ")
    if not space:  # the cursor is still at the end of the command
        print(" ".join(name for name in commands if name.startswith(command)))
    if not space or command not in commands:
        return None
    arguments = rest.split()
    # The last argument may be incomplete ("-", "backb"), so it is not parsed.
    last = arguments.pop() if arguments and not rest.endswith(" ") else ""
    try:
        hydra_arguments = parse([command, *arguments], commands).hydra_arguments
    except UsageError:
        return None  # an error message would end up in the middle of the user's prompt
    os.environ["COMP_LINE"] = " ".join([program, *hydra_arguments, last])
    return replace(line, command=command)


def _next_positional_key(command: str, overrides: Sequence[str]) -> str | None:
    given = {override.partition("=")[0] for override in overrides}
    return next((key for key in POSITIONAL.get(command, ()) if key not in given), None)


def _parse_flag(argument: str, remaining: list[str]) -> tuple[str, str]:
    """Return the long name and the value of a flag.

    Args:
        argument: The flag as typed, ``-c`` or ``--cfg=job``.
        remaining: The arguments after the flag; its value is removed from them.
    """
    name, equals, value = argument.partition("=")
    flag = _SHORT_FLAGS.get(name, name)
    if flag in _SWITCHES:
        if equals:
            raise UsageError(f"{flag} takes no value, got {argument!r}")
        return flag, ""
    if flag not in _VALUED_FLAGS:
        suggestion = did_you_mean(closest(name, [*_SHORT_FLAGS, *_SWITCHES, *_VALUED_FLAGS]))
        raise UsageError(f"unknown flag {name!r}{suggestion} --help lists the flags")
    choices = _CHOICES.get(flag, ())
    # A flag with choices takes the next argument only if it is one of them, because the value of
    # --info may be left out. Other values must not look like a flag.
    if not equals and remaining:
        if remaining[0] in choices or (not choices and remaining[0][:1] != "-"):
            value = remaining.pop(0)
    if not value and flag == "--info":
        value = "all"
    if not value or (choices and value not in choices):
        given = value or (remaining[0] if remaining else "")
        allowed = f"one of {', '.join(choices)}" if choices else "followed by a value"
        got = f"got {given!r}" if given else "got no value"
        suggestion = did_you_mean(closest(given, choices))
        raise UsageError(f"{flag} must be {allowed}, {got}{suggestion}")
    return flag, value


def _suggest_option(argument: str) -> str:
    """Return a suggestion if an argument is the name of an option, or close to one."""
    folder = help_text.conf_folder()
    addresses = help_text.group_addresses(folder / "fit.yaml", [folder])
    options = {
        file.stem: f"{address}={file.stem}"
        for group, address in addresses.items()
        for file in (folder / group).glob("*.yaml")
    }
    # Stricter than for keys: any argument without "=" gets here, and most name no option.
    return did_you_mean([options[name] for name in closest(argument, options, cutoff=0.8)])
