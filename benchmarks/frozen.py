"""Time of training a head on a frozen backbone, against three peers.

python benchmarks/frozen.py --json frozen.json --plot frozen.png

The peers are Hugging Face's Trainer and plain Lightning with ``BackboneFinetuning``, with the same
head for ten epochs, and logistic regression on embeddings of sentence-transformers. The time is
that from tokens to a trained head. The last peer starts from texts, so our tokenizing time is added
in that row. It uses mean pooling and another optimizer, so its score is not comparable to ours.

The second job of a head sweep trains another head on the same rows, with the cache folder of the
first job.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import _hf
import _lightning
import _sentences
from _bench import measure
from _ours import (
    Ours,
    accuracy,
    activation_cache,
    fit,
    make_task,
    movies,
    rows_of,
    session,
    texts_of,
)
from _report import Row, compare, report
from _settings import Work, empty_cache, make_parser, parse
from _turns import Result, Side, median, stopwatch

from lightning_transfer.callbacks import Freezing

WORK = "head on a frozen backbone"
SENTENCES = "sentence-transformers, logistic regression"
TOKENIZING, FIRST, SECOND = "our tokenizing", "first job of a sweep", "second job of a sweep"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table."""
    parser = make_parser(__doc__, rows=2048, epochs=10)
    parser.add_argument(
        "--sweep-epochs", type=int, default=3, help="epochs of a sweep's job (%(default)s)"
    )
    options = parse(parser, arguments)
    with session(options, lr=1e-3) as (work, folder):
        report(rows_of_table(work, folder, options), options)


def rows_of_table(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return rows for the heads of the peers, and for the second job of a sweep."""
    found_sides = partial(sides, folder=folder, sweep_epochs=options.sweep_epochs)
    measured = measure(found_sides, work, repeats=options.repeats)
    limit, found = measured.limit, measured.found
    # The frozen backbone runs once over each token. The operations of the head are negligible.
    fastest = limit.time_of(limit.forward(measured.lengths))
    peers = [name for name in found if name.startswith(("Trainer", "Lightning"))]
    rows = compare(WORK, found, peers=peers, limit=fastest)
    [texts] = compare(f"{WORK}, from texts", found, peers=[SENTENCES], limit=fastest)
    rows.append(dataclasses.replace(texts, ours=texts.ours + median(found[TOKENIZING])))
    return rows + compare("second job of a head sweep", found, ours=SECOND, peers=[FIRST])


def sides(work: Work, folder: Path, sweep_epochs: int) -> Mapping[str, Side]:
    """Return our side and the peers by name; ``sweep_epochs`` are the epochs of a sweep's job."""

    def trainer(seed: int, *, grouped: bool) -> Result:
        data = movies(work, seed=seed)
        rows, test = rows_of(data), rows_of(data, "test")
        return _hf.train(work, rows, test, seed=seed, grouped=grouped, prepare=_hf.freeze_encoder)

    def lightning(seed: int) -> Result:
        data = movies(work, seed=seed)
        return _lightning.frozen(work, rows_of(data), rows_of(data, "test"), seed=seed)

    sweep = Sweep(dataclasses.replace(work, epochs=sweep_epochs), folder)
    return {
        "ours": Ours(work, folder, make_callbacks=lambda: [Freezing()]),
        TOKENIZING: lambda seed: _tokenizing(work, seed),
        "Trainer, backbone frozen": lambda seed: trainer(seed, grouped=False),
        "Trainer, backbone frozen, grouped by length": lambda seed: trainer(seed, grouped=True),
        "Lightning, BackboneFinetuning": lightning,
        SENTENCES: lambda seed: encode_and_regress(work, seed),
        FIRST: sweep.first,  # before SECOND, which uses its cache
        SECOND: sweep.second,
    }


def _tokenizing(work: Work, seed: int) -> Result:
    """Tokenize the training rows, as sentence-transformers does."""
    data = movies(work, seed=seed)
    assert data.tokenizer is not None  # set by movies()
    texts, _ = texts_of(data)  # read before the measured time
    with stopwatch() as seconds:
        data.tokenizer(texts, truncation=True, max_length=work.max_length)
    return Result(seconds[0])


def encode_and_regress(work: Work, seed: int) -> Result:
    """Fit logistic regression to embeddings of sentence-transformers."""
    data = movies(work, seed=seed)
    return _sentences.encode_and_regress(work, texts_of(data), texts_of(data, "test"))


class Sweep:
    """Two jobs of a sweep over heads; the second uses the cache written by the first.

    Args:
        work: Work of both jobs.
        folder: Scratch folder.
    """

    def __init__(self, work: Work, folder: Path) -> None:
        """See the class."""
        self.work = work
        self.folder = folder

    def first(self, seed: int) -> Result:
        """Train a head with an empty cache folder."""
        empty_cache(self.folder)
        return self._job(seed, "tanh")

    def second(self, seed: int) -> Result:
        """Train another head with the same cache folder."""
        return self._job(seed, "gelu")

    def _job(self, seed: int, activation: str) -> Result:
        data = movies(self.work, seed=seed)
        task = make_task(self.work, data, seed=seed, activation=activation)  # type: ignore[arg-type]
        callbacks = [Freezing(), *activation_cache()]
        epochs = self.work.epochs
        seconds = fit(task, data, folder=self.folder, epochs=epochs, callbacks=callbacks)
        return Result(seconds, accuracy(task, data))


if __name__ == "__main__":
    main()
