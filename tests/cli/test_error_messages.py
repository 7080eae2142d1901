"""Errors printed for users and for developers."""

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_transfer.cli.error_messages import clean_message, report
from lightning_transfer.utils.errors import UsageError


def chained(cause: Exception) -> Exception:
    """Return ``cause`` in two of Hydra's wrappers, as raised for nested configs."""
    try:
        try:
            raise InstantiationException("Error in call\nfull_key: stages.target.head") from cause
        except InstantiationException as inner:
            raise InstantiationException("Error\nfull_key: stages.target.head") from inner
    except InstantiationException as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("num_labels must be >= 2, got 1"), "num_labels must be >= 2, got 1"),
        (FileNotFoundError(2, "No such file", "a.csv"), "[Errno 2] No such file: 'a.csv'"),
        (ImportError("no module named 'x'"), "no module named 'x'"),
        (MisconfigurationException("devices=0"), "devices=0"),
        (chained(ValueError("bad width")), "bad width (at stages.target.head)"),
        (chained(KeyError("x")), "KeyError: 'x' (at stages.target.head)"),
    ],
)
def test_users_mistake_is_printed_in_one_line_with_a_hint(error, line, capsys):
    assert report(error, verbose=False) == 1
    assert capsys.readouterr().err == f"error: {line}\n       (-v shows the traceback)\n"


def test_wrong_command_line_is_printed_without_a_hint(capsys):
    assert report(UsageError("unknown command 'x'."), verbose=False) == 2
    assert capsys.readouterr().err == "error: unknown command 'x'.\n"


def test_verbose_prints_the_traceback_too(capsys):
    assert report(ValueError("bad"), verbose=True) == 1
    assert capsys.readouterr().err == "ValueError: bad\nerror: bad\n"


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("x"), RuntimeError("shapes")])
def test_bug_is_printed_with_its_traceback(error, capsys):
    assert report(error, verbose=False, where="job 3 (a=1): ") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(type(error).__name__)
    assert lines[-1] == f"error: job 3 (a=1): {type(error).__name__}"


def test_hints_of_hydra_and_omegaconf_are_removed_from_messages():
    config = OmegaConf.create({"a": {"b": "???", "c": "${nosuch}"}})
    with pytest.raises(OmegaConfBaseException) as missing:
        _ = config.a.b
    assert clean_message(missing.value) == "Missing mandatory value: a.b"
    with pytest.raises(OmegaConfBaseException) as unknown:
        _ = config.a.c
    assert clean_message(unknown.value) == "Interpolation key 'nosuch' not found (at a.c)"
    error = ConfigCompositionException("Could not find 'x'\n\nConfig search path:\n\tprovider=main")
    assert clean_message(error) == "Could not find 'x'"
    assert clean_message(ValueError()) == "ValueError"
