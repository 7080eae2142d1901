"""Help texts read from the comments of the configs."""

import io
from pathlib import Path

import pytest

from lightning_transfer.cli import help_text
from lightning_transfer.cli.help_text import (
    command_help,
    describe_options,
    key_comment,
    print_options,
    source_folders,
)

LONG = "word " * 40


@pytest.fixture
def conf(tmp_path):
    """Two config folders: that of a package and a user's own."""
    files = {
        "conf/fit.yaml": (
            "# Train\n# python -m x fit\ndefaults:\n  - backbone: tiny\n"
            "  - stage@stages.target: default\n  - optional head: null\n  - _self_\n\n"
            "name: fit  # names the run\norder: [target]\nnested:\n  inner: '#1'  # deep\n"
            "hydra:\n  job: {name: fit}\n"
        ),
        "conf/stage/default.yaml": (
            "# One run\ndefaults:\n  - /data@data: movies\n  - _self_\nepochs: 3  # how long\n"
        ),
        "conf/backbone/tiny.yaml": "# Tiny\nname: ???  # a hub id\n",
        "conf/data/movies.yaml": "# @package _group_\n\n# Movie reviews\n# a command\nx: 1\n",
        "conf/data/long.yaml": f"# {LONG}\nx: 1\n",
        "conf/data/bare.yaml": "x: 1\n# not the first line\n",
        "conf/data/group/nested.yaml": "# Deeper\n",
        "conf/experiment/one.yaml": "# @package _global_\n# The one\n",
        "mine/data/mine.yaml": "# My own\n",
        "mine/data/movies.yaml": "# cannot be reached\n",
        "mine/head/big.yaml": "# Big head\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return [tmp_path / "conf", tmp_path / "mine"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_option_is_described_by_its_first_comment(conf):
    assert describe_options(conf[:1], ["data"]) == {
        "data": [
            ("bare", ""),
            ("group/nested", "Deeper"),
            ("long", LONG.strip()),
            ("movies", "Movie reviews"),
        ]
    }


def test_description_of_an_option_in_a_later_folder_begins_with_the_folder(conf, monkeypatch):
    monkeypatch.chdir(conf[1].parent)
    options = dict(describe_options(conf, ["data"])["data"])
    assert options["mine"] == "[mine] My own"
    assert options["movies"] == "Movie reviews"
    assert describe_options(conf, ["head"]) == {"head": [("big", "[mine] Big head")]}


def test_groups_may_be_named_by_their_titles(conf):
    assert list(describe_options(conf, ["domains", "backbone"])) == ["data", "backbone"]


def test_error_for_an_unknown_group_has_the_closest_names(conf):
    message = (
        r"unknown config group 'dta'; did you mean data\? Groups: backbone, data, experiment, head"
    )
    with pytest.raises(ValueError, match=message):
        describe_options(conf, ["dta"])


def test_all_shipped_options_have_a_description():
    described = describe_options([help_text.conf_folder()])
    assert list(described) == ["experiment", "data", "task", "head", "backbone", "finetuning"]
    assert all(comment for options in described.values() for _, comment in options)


def test_folders_of_a_search_path():
    sources = [
        "pkg://hydra.conf",
        "pkg://lightning_transfer.conf",
        "pkg://lightning_transfer/conf/data",
        "file:///home/me/conf",
        "structured://",
    ]
    folder = help_text.conf_folder()
    assert folder.joinpath("fit.yaml").is_file()
    assert source_folders([*sources[:2], *sources[3:]]) == [folder, Path("/home/me/conf")]


def test_source_that_is_not_installed_is_an_error():
    with pytest.raises(
        ModuleNotFoundError,
        match=r"no configs at pkg://lightning_transfer\.nosuch; reinstall the package",
    ):
        source_folders(["pkg://lightning_transfer.nosuch"])


def test_options_are_printed_complete_into_a_pipe(conf):
    file = io.StringIO()
    print_options(describe_options(conf[:1], ["experiment", "data"]), file)
    lines = file.getvalue().splitlines()
    assert lines[0] == "experiments  +experiment=…"
    assert lines[1] == "  one  The one"
    assert lines[2] == ""
    assert lines[3] == "domains  data@stages.target.data=…"
    assert f"  long          {LONG.strip()}" in lines
    assert "  bare" in lines
    assert "\x1b" not in file.getvalue()


def test_options_are_cut_at_the_width_of_a_terminal(conf, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    print_options(describe_options(conf[:1], ["data"]), file)
    lines = file.getvalue().splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 90  # 80 columns and the escape codes of bold text
    assert any(line.rstrip().endswith("…") for line in lines[1:])
    assert "[36m" not in file.getvalue()  # no colour


@pytest.mark.parametrize(
    ("key", "choices", "comment"),
    [
        ("backbone.name", {"backbone": "tiny"}, "a hub id"),
        ("stages.target.epochs", {"stage@stages.target": "default"}, "how long"),
        ("name", {}, "names the run"),
        ("nested.inner", {}, "deep"),
        ("nosuch", {"backbone": "tiny", "logger": None}, ""),
    ],
)
def test_comment_of_a_key_is_read_from_the_config_that_defines_it(conf, key, choices, comment):
    assert key_comment(key, command="fit", choices=choices, folders=conf) == comment


def test_help_of_a_command_shows_keys_and_groups_with_their_addresses(conf):
    text = command_help("fit", conf)
    lines = text.splitlines()
    assert lines[:3] == ["Train", "", "  python -m x fit"]
    assert "  name=fit           names the run" in lines
    assert "  nested.inner='#1'  deep" in lines
    assert "  stages.target.epochs=3  how long" in lines
    for place in ("+experiment=", "backbone=", "data@stages.target.data="):
        assert place in lines
    assert "hydra" not in text
    assert "defaults" not in text


def test_long_comments_are_wrapped_in_their_column(conf, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = command_help("fit", conf).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  long"))
    assert max(map(len, lines)) <= 80
    assert lines[start + 1].startswith(" " * 16 + "word")


def test_help_of_each_command_has_all_keys_of_its_config():
    folder = help_text.conf_folder()
    for file in folder.glob("*.yaml"):
        keys = [key for key, _, _ in help_text.read_keys(file)]
        text = command_help(file.stem, [folder])
        assert keys
        assert all(f"  {key}=" in text for key in keys if f"\n{key}:\n" not in file.read_text())


def test_callbacks_are_listed_with_the_override_that_adds_them(capsys):
    help_text.print_options(help_text.describe_options([help_text.conf_folder()], ["callbacks"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "callbacks  +callbacks@stages.target.callbacks=…"
    assert [line.split()[0] for line in lines[1:3]] == ["compile", "ema"]


def test_backbone_is_listed_with_the_address_of_the_run():
    lines = command_help("fit", [help_text.conf_folder()]).splitlines()
    assert "backbone=" in lines
    assert not [line for line in lines if line.startswith("backbone@")]
    assert "scheduler@stages.target.scheduler=" in lines
