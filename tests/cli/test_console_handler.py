"""Log handler for a terminal with a progress bar."""

import io
import logging
import sys

import pytest

from lightning_transfer.cli.console_handler import ConsoleHandler


@pytest.fixture
def logger():
    logger = logging.Logger("a logger of this test")
    logger.setLevel(logging.INFO)
    return logger


def test_each_record_is_written_to_the_current_stderr(logger, monkeypatch):
    logger.addHandler(ConsoleHandler())
    first, second = io.StringIO(), io.StringIO()
    for stream, text in ((first, "one"), (second, "two")):
        monkeypatch.setattr(sys, "stderr", stream)
        logger.info(text)
    assert (first.getvalue(), second.getvalue()) == ("one\n", "two\n")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "hello\nbeware\n"),
        ({"LOCAL_RANK": "0"}, "hello\nbeware\n"),
        ({"LOCAL_RANK": "1"}, "beware\n"),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, "beware\n"),
    ],
)
def test_other_ranks_write_warnings_only(logger, monkeypatch, environment, expected):
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logger.addHandler(ConsoleHandler())
    logger.info("hello")
    logger.warning("beware")
    assert stream.getvalue() == expected
