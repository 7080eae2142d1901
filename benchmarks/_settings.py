"""What both sides of a benchmark are given, and the options that all scripts take.

Imports neither torch nor the package: a process whose memory is measured pays for no side but its
own.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """The same model, rows, batches, epochs and learning rate for every side.

    Args:
        model: Folder of a BERT encoder and its tokenizer.
        movies: File of rated movie snippets: id, rating and text, tab-separated.
        news: File of rated news editorials, of the same form.
        rows: Training rows.
        epochs: Passes over them.
        test: Rows that the score is counted on; none of them is trained on.
        val: Rows that the score is counted on instead, to choose settings by; 0: none.
        lr: Peak learning rate, of the backbone and the head alike.
        batch_size: Rows of a batch.
        max_length: Tokens of a row at most, special ones included.
    """

    model: Path
    movies: Path
    news: Path
    rows: int
    epochs: int
    test: int
    val: int = 0
    lr: float = 5e-5
    batch_size: int = 32
    max_length: int = 128


def parser(about: str, *, rows: int, epochs: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of the options that all scripts have.

    Args:
        about: The script's docstring; its first line is the help text.
        rows: Default of ``--rows``.
        epochs: Default of ``--epochs``; None: there is no such option.
    """
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--rows", type=int, default=rows, help="rows of each run (%(default)s)")
    if epochs is not None:
        made.add_argument("--epochs", type=int, default=epochs, help="(%(default)s)")
    made.add_argument("--test", type=int, default=2000, help="rows of the score (%(default)s)")
    made.add_argument("--repeats", type=int, default=3, help="of each side, in turn (%(default)s)")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    made.add_argument("--tiny", action="store_true", help="a random model, made-up texts")
    made.add_argument("--json", type=Path, help="where to write the rows of the table")
    made.add_argument("--plot", type=Path, help="where to draw them, as a PNG")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; processes started from then on use as many threads."""
    options = made.parse_args(arguments)
    for name in ("rows", "epochs", "test", "repeats", "threads"):
        if getattr(options, name, 1) < 1:
            made.error(f"--{name} must be >= 1, got {getattr(options, name)}")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # a new head is no news
    return options


def make_work(options: argparse.Namespace, folder: Path, **changes: Any) -> Work:
    """Return the work that the options ask for, and move the package's cache into ``folder``.

    An empty cache of its own: what an earlier run has stored must not make this one fast. Model and
    texts are fetched into the user's own cache, if they are not there; processes started after that
    use no network.

    Args:
        options: As :func:`parse` returns them.
        folder: Scratch folder of this run.
        changes: Other values of :class:`Work`.
    """
    if options.tiny:
        from _tiny import write_model, write_texts

        model = write_model(folder / "model")
        movies, news = (write_texts(folder / f"{n}.txt", n) for n in ("movies", "news"))
    else:
        from lightning_transfer.assets import fetch

        model, texts = fetch("minilm"), fetch("vader")
        movies = texts / "movieReviewSnippets_GroundTruth.txt"
        news = texts / "nytEditorialSnippets_GroundTruth.txt"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    empty_cache(folder)
    sizes = {"rows": options.rows, "epochs": getattr(options, "epochs", 1), "test": options.test}
    return Work(model, movies, news, **{**sizes, **changes})


def empty_cache(folder: Path) -> Path:
    """Give the package a new, empty cache below ``folder``, and return where it is."""
    fresh = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
    os.environ["LIGHTNING_TRANSFER_CACHE"] = str(fresh)
    return fresh
