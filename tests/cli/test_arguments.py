"""Parsing of arguments and completion of commands."""

import os

import pytest

from lightning_transfer.cli.arguments import CommandLine, complete_command, parse
from lightning_transfer.utils.errors import UsageError

COMMANDS = ("fit", "test", "predict")


def test_flags_may_come_in_any_position():
    for arguments in (
        ["fit", "a=1", "-m", "b=2", "--config-dir", "mine", "~c"],
        ["--config-dir=mine", "-m", "fit", "a=1", "b=2", "~c"],
        ["fit", "a=1", "b=2", "~c", "-cd", "mine", "--multirun"],
    ):
        line = parse(arguments, COMMANDS)
        assert line.command == "fit"
        assert dict(line.flags) == {"--multirun": "", "--config-dir": "mine"}
        assert line.overrides == ("a=1", "b=2", "~c")
        assert line.runs


def test_hydra_arguments_begin_with_hydras_flags():
    line = parse(["fit", "-v", "a=1", "--cfg", "job", "b=2"], COMMANDS)
    assert line.hydra_arguments == ["--cfg", "job", "a=1", "b=2"]
    assert not line.runs


def test_value_of_info_may_be_left_out():
    assert parse(["fit", "--info", "a=1"], COMMANDS).flags["--info"] == "all"
    assert parse(["fit", "-i", "searchpath"], COMMANDS).flags["--info"] == "searchpath"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], r"unknown command 'fitt'; did you mean fit\? Commands: fit, test, predict"),
        (["fit", "--mutlirun"], r"unknown flag '--mutlirun'; did you mean --multirun"),
        (["fit", "-x"], r"unknown flag '-x'"),
        (["fit", "--multirun=true"], r"--multirun takes no value, got '--multirun=true'"),
        (
            ["fit", "-c", "jbo"],
            r"--cfg must be one of job, hydra, all, got 'jbo'; did you mean job",
        ),
        (["fit", "--cfg"], r"--cfg must be one of job, hydra, all, got no value\."),
        (["fit", "--config-dir", "-m"], r"--config-dir must be followed by a value, got '-m'"),
        (["a=1"], r"missing command; add one of fit, test, predict"),
        (["-m"], r"missing command"),
        (
            ["fit", "news_to_movies"],
            r"argument 'news_to_movies' is neither a flag nor an override key=value; did you mean "
            r"\+experiment=news_to_movies\?",
        ),
        (["fit", "froze"], r"did you mean finetuning@stages\.target\.finetuning=frozen\?"),
        (["fit", "zzz"], r"'zzz' is neither a flag nor an override key=value\.$"),
    ],
)
def test_error_of_a_wrong_argument_has_the_given_value_and_close_names(arguments, message):
    with pytest.raises(UsageError, match=message):
        parse(arguments, COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--version"], ["--hydra-help"], ["-v"]])
def test_some_flags_need_no_command(arguments):
    assert parse(arguments, COMMANDS).command is None


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("lightning-transfer ", "fit test predict\n"),
        ("lightning-transfer te", "test\n"),
        ("lightning-transfer nosuch a", ""),
        ("lightning-transfer fit --nosuch a", ""),
    ],
)
def test_commands_are_completed(typed, shown, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", typed)
    line = parse(["-sc", "query=bash"], COMMANDS)
    assert complete_command(line, COMMANDS) is None
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lightning-transfer fit back", "lightning-transfer back"),
        ("lightning-transfer fit a=1 ", "lightning-transfer a=1 "),
        ("lightning-transfer  fit a=1 -v -m b=", "lightning-transfer --multirun a=1 b="),
    ],
)
def test_hydra_completes_the_arguments_after_the_command(typed, expected, monkeypatch):
    monkeypatch.setenv("COMP_LINE", typed)
    line = complete_command(parse(["-sc", "query=bash"], COMMANDS), COMMANDS)
    assert line is not None
    assert line.command == "fit"
    assert os.environ["COMP_LINE"] == expected


def test_hydra_installs_the_completion(monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    line = CommandLine(None, {"--shell-completion": ""}, ("install=bash",))
    assert complete_command(line, COMMANDS) == line
