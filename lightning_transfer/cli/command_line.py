"""Entry point of the command line: each command is a Hydra app.

Help texts and errors in the arguments need no Hydra, so Hydra is imported after them. The functions
of the commands (:mod:`lightning_transfer.cli.commands`, with torch) are imported when a job starts.
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
from lightning_transfer.cli.arguments import (
    FLAGS_HELP,
    POSITIONAL,
    CommandLine,
    complete_command,
    parse,
)
from lightning_transfer.cli.job import Job
from lightning_transfer.cli.process import argv_and_path, hydra_process
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
"""Command to its function, ``module:function``, called with the composed config."""

_CONF = "pkg://lightning_transfer.conf"
_LIST_QUOTED_OR_NULL = re.compile(r"""\[.*\]|".*"|'.*'|null""", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Arguments without the name of the program; by default those of this process.

    Returns:
        Exit code: 0 on success; 1 if a job failed; 2 if the command line is wrong, in which case
        no file was changed; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read before parsing, because an error of the parser needs it.
    verbose = (
        bool({"-v", "--verbose"} & set(arguments)) or os.environ.get("HYDRA_FULL_ERROR") == "1"
    )
    with argv_and_path(arguments):
        try:
            return _dispatch(parse(arguments, tuple(COMMANDS)))
        except KeyboardInterrupt:
            return _report_interrupt()
        except SystemExit as stop:  # raised by Hydra, argparse, and Lightning after Ctrl-C
            return _exit_code(stop)
        except BrokenPipeError:
            # The reading program, such as head, has closed the pipe. Without a new standard output
            # Python would report the same error again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            return error_messages.report(error, verbose)


def _dispatch(line: CommandLine) -> int:
    """Show a help text or the version, or run the command through Hydra."""
    if "--version" in line.flags:
        print(f"lightning_transfer {__version__}")
        return 0
    if "--shell-completion" in line.flags:
        completed = complete_command(line, tuple(COMMANDS))
        if completed is None:
            return 0
        line = completed
    elif line.command is None and "--hydra-help" not in line.flags:
        print(_general_help())
        return 0
    elif line.command is not None and "--help" in line.flags:
        added = [Path(line.flags["--config-dir"])] if "--config-dir" in line.flags else []
        positional = [key.upper() for key in POSITIONAL.get(line.command, ())]
        usage = " ".join([line.command, *positional, "[key=value ...]"])
        print(f"usage: {_program_name()} {usage} [flags]\n")
        print(help_text.command_help(line.command, [help_text.conf_folder(), *added]))
        print(
            f"\n{FLAGS_HELP}\n\n"
            f"To show all keys with their values: {_program_name()} {line.command} --cfg job"
        )
        return 0
    return _run_hydra(line)


def _general_help() -> str:
    folder = help_text.conf_folder()
    commands = [
        f"  {name:12} {help_text.first_comments(folder / f'{name}.yaml')[0]}" for name in COMMANDS
    ]
    example = help_text.first_comments(folder / "fit.yaml")[1]
    return "\n".join(
        [
            f"usage: {_program_name()} COMMAND [key=value ...] [flags]",
            "\nTransfer learning in NLP, compared with baselines.\n\nCommands:",
            *commands,
            f"\n{FLAGS_HELP}\n\nExample: {example}",
        ]
    )


def _run_hydra(line: CommandLine) -> int:
    """Compose and check the config, then run the job or show the config through Hydra."""
    import hydra

    from lightning_transfer.experiments.sweeps.sweepers import register

    command = line.command or "fit"  # --hydra-help and --shell-completion need no command
    if "--config-path" in line.flags:
        # Hydra resolves a relative path against the module of the task function, here this package.
        path = line.flags["--config-path"]
        path = path if "://" in path else os.path.abspath(path)
        line = replace(line, flags={**line.flags, "--config-path": path})
    verbose = "--verbose" in line.flags or os.environ.get("HYDRA_FULL_ERROR") == "1"
    if verbose and line.runs and not any(o.startswith("hydra.verbose=") for o in line.overrides):
        line = replace(line, overrides=(*line.overrides, "hydra.verbose=[lightning_transfer]"))
    # The arguments as typed, because Lightning starts the other ranks of a job with them.
    job = Job(COMMANDS[command], line, tuple(sys.argv[1:]), verbose)
    register()
    app = hydra.main(version_base="1.3", config_path=_CONF, config_name=command)(job)
    composer = _ConfigComposer(line, command)
    try:
        line = composer.quote(line)
        if line.composes:
            composer.check(line)
        with hydra_process(line.hydra_arguments):
            app()
    except JobFailed as error:  # the job has reported its error, perhaps in another process
        return error.code
    except Exception as error:
        if isinstance(error, UsageError) or not error_messages.is_config_error(error):
            raise
        raise UsageError(error_messages.explain(error, line.overrides, composer)) from error
    return 0


class _ConfigComposer:
    """Composer of the same configs as the Hydra app, to check them before the app starts.

    Hydra composes the jobs of a sweep one after the other, and accepts missing values and keys
    without effect. This class finds such errors before the first job, and before Hydra creates the
    run folder.

    Args:
        line: Command line; its ``--config-path``, ``--config-dir`` and ``--config-name`` are used.
        command: Name of the primary config if the command line has no ``--config-name``.

    Raises:
        UsageError: If the folder of ``--config-dir`` does not exist.
    """

    def __init__(self, line: CommandLine, command: str) -> None:
        """See the class."""
        from hydra.core.config_search_path import SearchPathQuery
        from hydra.core.override_parser.overrides_parser import OverridesParser

        path = search_path(line.flags.get("--config-path", _CONF))
        if "--config-dir" in line.flags:
            folder = os.path.abspath(line.flags["--config-dir"])
            if not os.path.isdir(folder):
                given = line.flags["--config-dir"]
                raise UsageError(f"--config-dir must be an existing folder, got {given!r}")
            # The position in the search path at which Hydra itself adds --config-dir.
            path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        self._name = line.flags.get("--config-name", command)
        self._loader = config_loader(path)
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._composed: dict[tuple[str, ...], Any] = {}

    def compose(self, overrides: Sequence[str]) -> Any:
        """Return the composed config of one job with Hydra's part, for reading only."""
        from hydra.types import RunMode

        key = tuple(overrides)
        if key not in self._composed:  # composing is slower than all checks together
            config = self._loader.load_configuration(self._name, list(overrides), RunMode.RUN)
            self._composed[key] = config
        return self._composed[key]

    def compose_plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the composed config as plain values, with unresolved interpolations."""
        from omegaconf import OmegaConf

        return OmegaConf.to_container(self.compose(overrides))  # type: ignore[return-value]

    def options(self, group: str) -> list[str]:
        """Return the options of a group, empty if it is unknown; ``""`` for primary configs."""
        return [name for name in self._loader.get_group_options(group) if name[:1] != "_"]

    def quote(self, line: CommandLine) -> CommandLine:
        """Quote the values that are no valid Hydra syntax, such as sentences and paths with =."""
        # A sweep over texts needs Hydra's syntax, text=a,b, so these are not quoted.
        predicts = line.command == "predict" and "--multirun" not in line.flags
        text_keys = {"text", "text_pair"} if predicts else set()
        quoted = tuple(self._quote_override(o, text_keys) for o in line.overrides)
        return replace(line, overrides=quoted)

    def _quote_override(self, override: str, text_keys: set[str]) -> str:
        """Return an override with its value quoted, if it is a text or invalid Hydra syntax."""
        from hydra.core.override_parser.types import Quote, QuotedString
        from hydra.errors import OverrideParseException

        key, _, value = override.partition("=")
        if key in text_keys and not _LIST_QUOTED_OR_NULL.fullmatch(value):
            value = value.replace("${", r"\${")  # a literal "${", not an interpolation
        else:
            try:
                self._parser.parse_overrides([override])
                return override
            except OverrideParseException:
                # A value that begins as a string, list, mapping or function was meant as one.
                if not value or re.match(r"""["'\[{]|\w+\(""", value):
                    raise
        return f"{key}={QuotedString(value, Quote.double).with_quotes()}"

    def check(self, line: CommandLine) -> None:
        """Compose the configs of a command line and check them.

        Raises:
            UsageError: If a config cannot be composed, an override has no effect, a required value
                is missing, a callback of Hydra is not allowed, the key of ``--package`` is unknown,
                or the run folder cannot be used.
        """
        configs = []
        sweeps = self._is_sweep(line)
        for overrides in self._sample_jobs(line, sweeps):
            try:
                configs.append(self.compose(overrides))
            except Exception as error:
                if isinstance(error, UsageError) or not error_messages.is_config_error(error):
                    raise
                raise UsageError(error_messages.explain(error, overrides, self)) from error
            if len(configs) > 1:  # all jobs have the same keys, so the first one is enough
                continue
            message = error_messages.added_key_error(overrides, self)
            message = message or error_messages.empty_mapping_error(overrides, self)
            if message:
                raise UsageError(message)
        for config in configs:
            _check_config(config, line, sweeps=sweeps)

    def _sample_jobs(self, line: CommandLine, sweeps: bool) -> Iterator[list[str]]:
        """Yield the overrides of single jobs, enough to find the errors of a sweep.

        Every value of a config group is tried, since any of them may be misspelt. Of any other key
        only the first value is tried: the key alone can be wrong here.
        """
        values: list[list[str]] = []
        for override in self._parser.parse_overrides(list(line.overrides)):
            candidates = [str(override.input_line)]
            if override.is_sweep_override() and sweeps:
                key = override.get_key_element()
                if override.is_discrete_sweep():
                    candidates = [f"{key}={value}" for value in override.sweep_string_iterator()]
                else:
                    candidates = [f"{key}={override.value().start}"]  # type: ignore[union-attr]
                if not candidates:
                    raise UsageError(f"{override.input_line} matches no option")
                if not self.options(override.key_or_group):
                    candidates = candidates[:1]
            values.append(candidates)
        first = [candidates[0] for candidates in values]
        yield first
        # One value is changed at a time: the number of configs is the sum of the options, not their
        # product.
        for position, candidates in enumerate(values):
            for value in candidates[1:]:
                yield [*first[:position], value, *first[position + 1 :]]

    def _is_sweep(self, line: CommandLine) -> bool:
        """Return whether the command line is a sweep, by ``-m`` or by ``hydra.mode``."""
        if "--multirun" in line.flags or "hydra.mode=MULTIRUN" in line.overrides:
            return True
        # An option such as sweep=optuna sets hydra.mode in its config.
        try:
            parsed = self._parser.parse_overrides(list(line.overrides))
            fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
            return str(self.compose(fixed).hydra.mode).endswith("MULTIRUN")
        except Exception:  # `check` composes the same config and reports the error
            return False


def _check_config(config: Any, line: CommandLine, *, sweeps: bool) -> None:
    """Check a composed config for missing values and for callbacks that are not allowed.

    Raises:
        UsageError: If the check fails; the conditions are those of ``_ConfigComposer.check``.
    """
    from omegaconf import OmegaConf

    from lightning_transfer.utils import allowed_targets

    hydra = config.hydra
    # Hydra imports and calls these classes before any function of this package runs.
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
    sources = (f"{source.schema}://{source.path}" for source in hydra.runtime.config_sources)
    folders = help_text.source_folders(sources)
    messages = [_missing_key_message(key, line, hydra, folders) for key in missing]
    if messages:
        raise UsageError("\n       ".join(messages))  # aligned after "error: "
    if line.command == "fit" and line.runs and not sweeps:
        _check_run_folder(hydra, task)


def _missing_key_message(key: str, line: CommandLine, hydra: Any, folders: Sequence[Path]) -> str:
    """Return the error message for a required key, with the key's comment in the config files."""
    comment = help_text.key_comment(
        key, command=hydra.job.config_name, choices=hydra.runtime.choices, folders=folders
    )
    return f"{line.command} requires {key}=…" + (f" ({comment})" if comment else "")


def _check_run_folder(hydra: Any, task: Any) -> None:
    """Refuse a run folder that is in use or holds another run, before Hydra writes into it."""
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lightning_transfer.experiments import run_folder

    if any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        return  # rank 0 of this run has locked the folder already
    setup_globals()  # registers the resolver of ${now:...} in the folder's default name
    try:
        folder = str(hydra.run.dir)
        config = OmegaConf.to_container(task, resolve=True)
    except OmegaConfBaseException:  # refers to values that Hydra sets when the job starts
        return
    try:
        run_folder.probe(folder, config=config, resume=bool(task.get("resume")))  # type: ignore[arg-type]
    except (ValueError, BlockingIOError) as error:
        raise UsageError(str(error)) from error


def _report_interrupt() -> int:
    """Print that Ctrl-C was pressed, and return the exit code 130 (128 + SIGINT)."""
    print("interrupted", file=sys.stderr)
    return 130


def _exit_code(stop: SystemExit) -> int:
    """Return the exit code of a ``SystemExit``, and print its message as Python does."""
    if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
        return _report_interrupt()
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _program_name() -> str:
    """Return the command that started this program, for help texts."""
    name = os.path.basename(sys.argv[0])
    return name if name.startswith("lightning-transfer") else "python -m lightning_transfer"
