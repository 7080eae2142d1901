"""Work of a benchmark, and the options of all scripts.

Imports neither torch nor the package, so that a process under measurement uses memory for its own
side only.
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
    """Work of a benchmark: model, rows, batches, epochs and learning rate of every side.

    Args:
        model: Folder of a BERT encoder and its tokenizer.
        movies: File of rated movie snippets: id, rating and text, tab-separated.
        news: File of rated news editorials in the same format.
        rows: Number of training rows.
        epochs: Number of epochs.
        test: Number of test rows for the score, which are no training rows.
        val: Number of validation rows for the score instead, to choose settings; 0 for none.
        lr: Peak learning rate of backbone and head.
        batch_size: Rows in a batch.
        max_length: Maximum number of tokens of a row, with special tokens.
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


def make_parser(about: str, *, rows: int, epochs: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of all scripts.

    Args:
        about: Docstring of the script; its first line is the help text.
        rows: Default of ``--rows``.
        epochs: Default of ``--epochs``; None for a script without this option.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--rows", type=int, default=rows, help="rows of each run (%(default)s)")
    if epochs is not None:
        parser.add_argument("--epochs", type=int, default=epochs, help="(%(default)s)")
    parser.add_argument("--test", type=int, default=2000, help="test rows (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="by default all cores")
    parser.add_argument("--tiny", action="store_true", help="random model and generated texts")
    parser.add_argument("--json", type=Path, help="file for the rows of the table")
    parser.add_argument("--plot", type=Path, help="PNG file for the plot")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, and set the number of threads for processes started later."""
    options = parser.parse_args(arguments)
    for name in ("rows", "epochs", "test", "repeats", "threads"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name} must be >= 1, got {getattr(options, name)}")
    # Read by torch when a child process imports it.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # warns of each new head
    return options


def make_work(options: argparse.Namespace, folder: Path, **changes: Any) -> Work:
    """Return the work for some options, and set an empty cache folder for this run.

    Tokens and activations stored by an earlier run would make this one faster, hence the empty
    cache. Model and texts are downloaded into the user's cache. Later processes use no network.

    Args:
        options: Options returned by :func:`parse`.
        folder: Scratch folder of this run.
        changes: Other arguments of :class:`Work`.
    """
    if options.tiny:
        # Imported late, like the assets below, so that this module stays light.
        from _tiny import write_model, write_texts

        model = write_model(folder / "model")
        movies, news = (write_texts(folder / f"{n}.txt", n) for n in ("movies", "news"))
    else:
        from lightning_transfer.assets import fetch

        model, texts = fetch("minilm"), fetch("vader")
        movies = texts / "movieReviewSnippets_GroundTruth.txt"
        news = texts / "nytEditorialSnippets_GroundTruth.txt"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # after the downloads
    empty_cache(folder)
    sizes = {"rows": options.rows, "epochs": getattr(options, "epochs", 1), "test": options.test}
    return Work(model, movies, news, **{**sizes, **changes})


def empty_cache(folder: Path) -> Path:
    """Set a new, empty cache folder of the package below ``folder``, and return it."""
    fresh = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
    os.environ["LIGHTNING_TRANSFER_CACHE"] = str(fresh)
    return fresh
