import pytest

from lightning_transfer.cli.arguments import CommandLine, completing, parse
from lightning_transfer.utils.errors import UsageError

COMMANDS = ("fit", "test", "predict")


def test_flags_may_stand_anywhere():
    for words in (
        ["fit", "a=1", "-m", "b=2", "--config-dir", "mine", "~c"],
        ["--config-dir=mine", "-m", "fit", "a=1", "b=2", "~c"],
        ["fit", "a=1", "b=2", "~c", "-cd", "mine", "--multirun"],
    ):
        line = parse(words, COMMANDS)
        assert line.command == "fit"
        assert dict(line.flags) == {"--multirun": "", "--config-dir": "mine"}
        assert line.overrides == ("a=1", "b=2", "~c")
        assert line.runs


def test_hydra_gets_flags_first_and_none_of_ours():
    line = parse(["fit", "-v", "a=1", "--cfg", "job", "b=2"], COMMANDS)
    assert line.hydra_words == ["--cfg", "job", "a=1", "b=2"]
    assert not line.runs


def test_info_needs_no_value():
    assert parse(["fit", "--info", "a=1"], COMMANDS).flags["--info"] == "all"
    assert parse(["fit", "-i", "searchpath"], COMMANDS).flags["--info"] == "searchpath"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], r"unknown command 'fitt'; did you mean fit\? Commands: fit, test, predict"),
        (["fit", "--mutlirun"], r"unknown flag '--mutlirun'; did you mean --multirun"),
        (["fit", "-x"], r"unknown flag '-x'"),
        (["fit", "--multirun=true"], r"--multirun takes no value, got '--multirun=true'"),
        (["fit", "-c", "jbo"], r"--cfg needs one of job, hydra, all, got 'jbo'; did you mean job"),
        (["fit", "--cfg"], r"--cfg needs one of job, hydra, all, got 'nothing'"),
        (["fit", "--config-dir", "-m"], r"--config-dir needs a value, got '-m'"),
        (["a=1"], r"the command word is missing; put one of fit, test, predict in front"),
        (["-m"], r"the command word is missing"),
        (
            ["fit", "news_to_movies"],
            r"'news_to_movies' is neither a flag nor key=value; did you mean "
            r"\+experiment=news_to_movies\?",
        ),
        (["fit", "froze"], r"did you mean finetuning@stages\.target\.finetuning=frozen\?"),
        (["fit", "zzz"], r"'zzz' is neither a flag nor key=value\.$"),
    ],
)
def test_wrong_words_say_what_was_given_and_what_is_close(words, message):
    with pytest.raises(UsageError, match=message):
        parse(words, COMMANDS)


@pytest.mark.parametrize("words", [[], ["-h"], ["--version"], ["--hydra-help"], ["-v"]])
def test_some_lines_need_no_command(words):
    assert parse(words, COMMANDS).command is None


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("lightning-transfer ", "fit test predict\n"),
        ("lightning-transfer te", "test\n"),
        ("lightning-transfer nosuch a", ""),
        ("lightning-transfer fit --nosuch a", ""),
    ],
)
def test_command_words_are_completed(typed, shown, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", typed)
    line = parse(["-sc", "query=bash"], COMMANDS)
    assert completing(line, COMMANDS) is None
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("lightning-transfer fit back", "lightning-transfer back"),
        ("lightning-transfer fit a=1 ", "lightning-transfer a=1 "),
        ("lightning-transfer  fit a=1 -v -m b=", "lightning-transfer --multirun a=1 b="),
    ],
)
def test_hydra_completes_what_follows_the_command(typed, left, monkeypatch):
    import os

    monkeypatch.setenv("COMP_LINE", typed)
    line = completing(parse(["-sc", "query=bash"], COMMANDS), COMMANDS)
    assert line is not None
    assert line.command == "fit"
    assert os.environ["COMP_LINE"] == left


def test_installing_completion_is_left_to_hydra(monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    line = CommandLine(None, {"--shell-completion": ""}, ("install=bash",))
    assert completing(line, COMMANDS) == line
