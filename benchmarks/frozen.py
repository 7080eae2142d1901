"""Train a head on a frozen backbone: ours against three peers.

python benchmarks/frozen.py --json frozen.json --plot frozen.png

Ten epochs of the same head, against Hugging Face's Trainer, plain Lightning with its
``BackboneFinetuning``, and logistic regression on features of sentence-transformers. From tokens to
a trained head; the last starts from texts, and our tokenizing is added there. Its features are
means over the tokens, and its optimizer is another: its score is not ours.

The second job of a head sweep trains another head on the same rows with the same cache folder as
the first.
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
from _ours import Ours, accuracy, fit, make_task, movies, rows_of, session, store, texts_of
from _report import Row, compare, report
from _settings import Work, empty_cache, parse, parser
from _turns import Result, Side, median, stopwatch

from lightning_transfer.callbacks import Freezing

WORK = "head on a frozen backbone"
SENTENCES = "sentence-transformers, logistic regression"
TOKENIZING, FIRST, SECOND = "our tokenizing", "first job of a sweep", "second job of a sweep"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    made = parser(__doc__, rows=2048, epochs=10)
    made.add_argument("--sweep-epochs", type=int, default=3, help="of each job (%(default)s)")
    options = parse(made, arguments)
    with session(options, lr=1e-3) as (work, folder):
        report(rows_of_table(work, folder, options), options)


def rows_of_table(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return our head against the peers', and the second job of a sweep against the first."""
    found_sides = partial(sides, folder=folder, sweep_epochs=options.sweep_epochs)
    measured = measure(found_sides, work, repeats=options.repeats)
    limit, found = measured.limit, measured.found
    fastest = limit.time_of(limit.forward(measured.lengths))  # each token once; the head is nothing
    peers = [name for name in found if name.startswith(("Trainer", "Lightning"))]
    rows = compare(WORK, found, peers=peers, limit=fastest)
    [texts] = compare(f"{WORK}, from texts", found, peers=[SENTENCES], limit=fastest)
    rows.append(dataclasses.replace(texts, ours=texts.ours + median(found[TOKENIZING])))
    return rows + compare("second job of a head sweep", found, ours=SECOND, peers=[FIRST])


def sides(work: Work, folder: Path, sweep_epochs: int) -> Mapping[str, Side]:
    """Return ours and the peers by name; the jobs of a sweep have epochs of their own."""

    def trainer(seed: int, *, grouped: bool) -> Result:
        data = movies(work, seed=seed)
        rows, test = rows_of(data), rows_of(data, "test")
        return _hf.train(work, rows, test, seed=seed, grouped=grouped, prepare=_hf.freeze_encoder)

    def lightning(seed: int) -> Result:
        data = movies(work, seed=seed)
        return _lightning.frozen(work, rows_of(data), rows_of(data, "test"), seed=seed)

    sweep = Sweep(dataclasses.replace(work, epochs=sweep_epochs), folder)
    return {
        "ours": Ours(work, folder, strategy=lambda: [Freezing()]),
        TOKENIZING: lambda seed: _tokenizing(work, seed),
        "Trainer, backbone frozen": lambda seed: trainer(seed, grouped=False),
        "Trainer, backbone frozen, grouped by length": lambda seed: trainer(seed, grouped=True),
        "Lightning, BackboneFinetuning": lightning,
        SENTENCES: lambda seed: encode_and_regress(work, seed),
        FIRST: sweep.first,
        SECOND: sweep.second,
    }


def _tokenizing(work: Work, seed: int) -> Result:
    """Tokenize the training rows as sentence-transformers has to."""
    data = movies(work, seed=seed)
    assert data.tokenizer is not None  # movies() sets it
    texts, _ = texts_of(data)
    with stopwatch() as seconds:
        data.tokenizer(texts, truncation=True, max_length=work.max_length)
    return Result(seconds[0])


def encode_and_regress(work: Work, seed: int) -> Result:
    """Let sentence-transformers encode the training texts, and regress on that."""
    data = movies(work, seed=seed)
    return _sentences.encode_and_regress(work, texts_of(data), texts_of(data, "test"))


class Sweep:
    """Two jobs of a sweep over heads: the second finds what the first has left.

    Args:
        work: What both are given.
        folder: Scratch folder.
    """

    def __init__(self, work: Work, folder: Path) -> None:
        """See the class."""
        self.work = work
        self.folder = folder

    def first(self, seed: int) -> Result:
        """Train one head, with an empty cache."""
        empty_cache(self.folder)
        return self._job(seed, "tanh")

    def second(self, seed: int) -> Result:
        """Train another."""
        return self._job(seed, "gelu")

    def _job(self, seed: int, activation: str) -> Result:
        data = movies(self.work, seed=seed)
        task = make_task(self.work, data, seed=seed, activation=activation)  # type: ignore[arg-type]
        own = [Freezing(), *store()]
        seconds = fit(task, data, folder=self.folder, epochs=self.work.epochs, own=own)
        return Result(seconds, accuracy(task, data))


if __name__ == "__main__":
    main()
