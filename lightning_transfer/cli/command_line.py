"""The command line: a command word picks a Hydra app.

Help and mistakes in the line's own words are answered before Hydra is imported; what runs a command
(:mod:`lightning_transfer.cli.commands`, and torch with it) is imported only when a job starts.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_transfer import __version__
from lightning_transfer.cli import error_messages, help_text
from lightning_transfer.cli.arguments import FLAGS_HELP, POSITIONAL, CommandLine, completing, parse
from lightning_transfer.cli.job import Job
from lightning_transfer.cli.process import hydra_process, process
from lightning_transfer.config.private_apis import config_loader, search_path
from lightning_transfer.experiments.sweeps.job_records import JobFailed
from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.suggestions import closest_keys, did_you_mean, dotted

COMMANDS: Mapping[str, str] = {
    "fit": "lightning_transfer.cli.commands:fit",
    "validate": "lightning_transfer.cli.commands:validate",
    "test": "lightning_transfer.cli.commands:test",
    "predict": "lightning_transfer.cli.commands:predict",
    "fetch": "lightning_transfer.cli.commands:fetch",
    "list": "lightning_transfer.cli.commands:list_",
    "sweep-report": "lightning_transfer.cli.commands:sweep_report",
}
"""Command word to the function that runs it, given the composed config."""

_CONF = "pkg://lightning_transfer.conf"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Its words without the program's name; those of this process unless given.

    Returns:
        Exit code: 0; 1 when a job failed; 2 when the line itself is wrong, in which case nothing
        was touched; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = bool({"-v", "--verbose"} & set(words)) or os.environ.get("HYDRA_FULL_ERROR") == "1"
    with process(words):
        try:
            return _answer(parse(words, tuple(COMMANDS)))
        except KeyboardInterrupt:
            return _interrupted()
        except SystemExit as stop:  # Hydra, argparse; Lightning after a Ctrl-C
            return (
                _interrupted() if isinstance(stop.__context__, KeyboardInterrupt) else _code(stop)
            )
        except BrokenPipeError:  # a reader such as head has gone; say nothing, here or at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            return error_messages.report(error, verbose)


def _answer(line: CommandLine) -> int:
    """Do what a well-formed line says."""
    if "--version" in line.flags:
        print(f"lightning_transfer {__version__}")
        return 0
    if "--shell-completion" in line.flags:
        completed = completing(line, tuple(COMMANDS))
        if completed is None:
            return 0
        line = completed
    elif line.command is None and "--hydra-help" not in line.flags:
        print(_help())
        return 0
    elif line.command is not None and "--help" in line.flags:
        added = [Path(line.flags["--config-dir"])] if "--config-dir" in line.flags else []
        bare = [key.upper() for key in POSITIONAL.get(line.command, ())]
        words = " ".join([line.command, *bare, "[key=value ...]"])
        print(f"usage: {_program()} {words} [flags]\n")
        print(help_text.command_help(line.command, [help_text.conf_folder(), *added]))
        print(f"\n{FLAGS_HELP}\n\nEvery key, with its value: {_program()} {line.command} --cfg job")
        return 0
    return _run_hydra(line)


def _help() -> str:
    folder = help_text.conf_folder()
    what = [
        f"  {name:12} {help_text.first_comments(folder / f'{name}.yaml')[0]}" for name in COMMANDS
    ]
    example = help_text.first_comments(folder / "fit.yaml")[1]
    return "\n".join(
        [
            f"usage: {_program()} COMMAND [key=value ...] [flags]",
            "\nTransfer learning in NLP, proven against its baselines.\n\nCommands:",
            *what,
            f"\n{FLAGS_HELP}\n\nExample: {example}",
        ]
    )


def _run_hydra(line: CommandLine) -> int:
    """Compose and run, or show, through Hydra."""
    import hydra

    from lightning_transfer.experiments.sweeps.sweepers import register

    command = line.command or "fit"
    if "--config-path" in line.flags:
        path = line.flags["--config-path"]  # Hydra takes it as relative to this package
        path = path if "://" in path else os.path.abspath(path)
        line = replace(line, flags={**line.flags, "--config-path": path})
    verbose = "--verbose" in line.flags or os.environ.get("HYDRA_FULL_ERROR") == "1"
    if verbose and line.runs and not any(o.startswith("hydra.verbose=") for o in line.overrides):
        line = replace(line, overrides=(*line.overrides, "hydra.verbose=[lightning_transfer]"))
    words = tuple(sys.argv[1:])
    job = Job(COMMANDS[command], line, words, verbose)
    register()
    app = hydra.main(version_base="1.3", config_path=_CONF, config_name=command)(job)
    composer = _Composer(line, command)
    try:
        line = composer.quoted(line)
        if line.composes:
            composer.check(line)
        with hydra_process(line.hydra_words):
            app()
    except JobFailed as error:  # told where it failed, which may be another process
        return error.code
    except Exception as error:
        if isinstance(error, UsageError) or not error_messages.is_of_config(error):
            raise
        raise UsageError(error_messages.explain(error, line.overrides, composer)) from error
    return 0


class _Composer:
    """Composes configs as the line's Hydra app does, to check them before it starts."""

    def __init__(self, line: CommandLine, command: str) -> None:
        from hydra.core.config_search_path import SearchPathQuery
        from hydra.core.override_parser.overrides_parser import OverridesParser

        path = search_path(line.flags.get("--config-path", _CONF))
        if "--config-dir" in line.flags:
            folder = os.path.abspath(line.flags["--config-dir"])
            if not os.path.isdir(folder):
                raise UsageError(f"--config-dir {line.flags['--config-dir']}: no such folder")
            path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        self._name = line.flags.get("--config-name", command)
        self._loader = config_loader(path)
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._composed: dict[tuple[str, ...], Any] = {}

    def config(self, overrides: Sequence[str]) -> Any:
        """Return the composed config of one job, Hydra's part included; not to be changed."""
        from hydra.types import RunMode

        known = tuple(overrides)
        if known not in self._composed:  # composing takes longer than all the checks
            config = self._loader.load_configuration(self._name, list(overrides), RunMode.RUN)
            self._composed[known] = config
        return self._composed[known]

    def plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the same as plain values, interpolations as they are."""
        from omegaconf import OmegaConf

        return OmegaConf.to_container(self.config(overrides))  # type: ignore[return-value]

    def options(self, group: str) -> list[str]:
        """Return the options of a group, or the primary configs; none if there is no such group."""
        return [name for name in self._loader.get_group_options(group) if name[:1] != "_"]

    def quoted(self, line: CommandLine) -> CommandLine:
        """Quote values that Hydra's grammar cannot read: sentences, paths with an equals sign."""
        sentences = line.command == "predict" and "--multirun" not in line.flags
        free = {"text", "text_pair"} if sentences else set()
        return replace(line, overrides=tuple(self._quoted(o, free) for o in line.overrides))

    def _quoted(self, override: str, free: set[str]) -> str:
        from hydra.core.override_parser.types import Quote, QuotedString
        from hydra.errors import OverrideParseException

        key, _, value = override.partition("=")
        if key in free and not re.fullmatch(r"""\[.*\]|".*"|'.*'|null""", value, re.DOTALL):
            value = value.replace("${", r"\${")
        else:
            try:
                self._parser.parse_overrides([override])
                return override
            except OverrideParseException:
                if not value or re.match(r"""["'\[{]|\w+\(""", value):
                    raise
        return f"{key}={QuotedString(value, Quote.double).with_quotes()}"

    def check(self, line: CommandLine) -> None:
        """Raise a :class:`UsageError` for what is wrong with the configs that a line asks for."""
        configs = []
        sweeps = self._sweeps(line)
        for overrides in self._jobs(line, sweeps):
            try:
                configs.append(self.config(overrides))
            except Exception as error:
                if isinstance(error, UsageError) or not error_messages.is_of_config(error):
                    raise
                raise UsageError(error_messages.explain(error, overrides, self)) from error
            if len(configs) > 1:
                continue
            wrong = error_messages.appended(overrides, self) or error_messages.emptied(
                overrides, self
            )
            if wrong:
                raise UsageError(wrong)
        for config in configs:
            _check_config(config, line, sweeps=sweeps)

    def _jobs(self, line: CommandLine, sweeps: bool) -> Iterator[list[str]]:
        """Yield overrides of single jobs that show what a sweep's values compose to.

        All values of a config group are tried, and the first of any other key.
        """
        values: list[list[str]] = []
        for override in self._parser.parse_overrides(list(line.overrides)):
            own = [str(override.input_line)]
            if override.is_sweep_override() and sweeps:
                key = override.get_key_element()
                if override.is_discrete_sweep():
                    own = [f"{key}={value}" for value in override.sweep_string_iterator()]
                else:
                    own = [f"{key}={override.value().start}"]  # type: ignore[union-attr]
                if not own:
                    raise UsageError(f"{override.input_line} matches nothing")
                if not self.options(override.key_or_group):
                    own = own[:1]
            values.append(own)
        first = [own[0] for own in values]
        yield first
        for position, own in enumerate(values):
            for value in own[1:]:
                yield [*first[:position], value, *first[position + 1 :]]

    def _sweeps(self, line: CommandLine) -> bool:
        """Return whether the line is a sweep, by its flag or by the config's ``hydra.mode``."""
        if "--multirun" in line.flags or "hydra.mode=MULTIRUN" in line.overrides:
            return True
        try:
            parsed = self._parser.parse_overrides(list(line.overrides))
            fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
            return str(self.config(fixed).hydra.mode).endswith("MULTIRUN")
        except Exception:
            return False


def _check_config(config: Any, line: CommandLine, *, sweeps: bool) -> None:
    """Raise a :class:`UsageError` for what a composed config lacks, or what may not be in it."""
    from omegaconf import OmegaConf

    from lightning_transfer.utils import allowed_targets

    hydra = config.hydra
    try:
        allowed_targets.check(
            OmegaConf.to_container(hydra.callbacks), "hydra callback", where="hydra.callbacks"
        )
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    task = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    package = line.flags.get("--package", "_global_")
    known = dotted(OmegaConf.to_container(config))
    if package not in ("_global_", *known) and OmegaConf.select(config, package) is None:
        raise UsageError(f"unknown key {package!r}{did_you_mean(closest_keys(package, known))}")
    swept = set(OmegaConf.select(hydra, "sweeper.params") or {})
    missing = sorted(OmegaConf.missing_keys(task) - swept) if line.runs else []
    folders = help_text.source_folders(
        f"{s.schema}://{s.path}" for s in hydra.runtime.config_sources
    )
    choices = hydra.runtime.choices
    lines = [
        f"{line.command} needs {key}=…  {what}".rstrip()
        for key in missing
        for what in [
            help_text.about(key, command=hydra.job.config_name, choices=choices, folders=folders)
        ]
    ]
    if lines:
        raise UsageError("\n       ".join(lines))
    if line.command == "fit" and line.runs and not sweeps:
        _check_folder(hydra, task)


def _check_folder(hydra: Any, task: Any) -> None:
    """Refuse a run folder that is taken, before Hydra writes into it."""
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lightning_transfer.experiments import run_folder

    if any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        return  # the folder was taken by this very run
    setup_globals()
    try:
        folder = str(hydra.run.dir)
        config = OmegaConf.to_container(task, resolve=True)
    except OmegaConfBaseException:  # made of values that Hydra sets when it starts the job
        return
    try:
        run_folder.probe(folder, config=config, resume=bool(task.get("resume")))  # type: ignore[arg-type]
    except (ValueError, BlockingIOError) as error:
        raise UsageError(str(error)) from error


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def _code(stop: SystemExit) -> int:
    if isinstance(stop.__context__, KeyboardInterrupt):
        return _interrupted()
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _program() -> str:
    """Return how this program was started, for help texts."""
    name = os.path.basename(sys.argv[0])
    return name if name.startswith("lightning-transfer") else "python -m lightning_transfer"
