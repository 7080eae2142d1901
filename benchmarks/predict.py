"""Predict many texts: ours against the transformers pipeline and sentence-transformers.

python benchmarks/predict.py --json predict.json --plot predict.png

From texts in memory to labels in memory, all sides with the same weights: MiniLM that has learned
a little from news, so that the labels can be counted. The peers' batch sizes are the best of a few,
found in the run on the first texts; ours is the default. sentence-transformers gives features and
no labels.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _limit import MatmulLimit
from _ours import BANDS, learn_news, session
from _report import LIMIT, Row, compare, report
from _sentences import encode, encoder
from _settings import Work, parse, parser
from _turns import Result, Side, best_size, in_turn, stopwatch
from transformers import AutoConfig, pipeline

from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.data import MovieSnippets
from lightning_transfer.inference import Predictor

SAMPLE = 640  # texts that the batch sizes are tried on


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    made = parser(__doc__, rows=10_000)
    made.add_argument("--news", type=int, default=2048, help="training rows (%(default)s)")
    options = parse(made, arguments)
    with session(options) as (work, folder):
        report(rows_of_table(work, folder, options), options)


def rows_of_table(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return our predictions against the peers'."""
    model = learn_news(work, folder, rows=options.news)
    loaded = MovieSnippets(str(work.movies)).load_rows()
    texts = loaded["text"][: work.rows]
    classes = BANDS.found([])
    labels = [classes.names[BANDS.parse(raw, classes)] for raw in loaded["label"][: work.rows]]
    cut = load_tokenizer(model)(texts, truncation=True, max_length=work.max_length)
    lengths = [len(ids) for ids in cut["input_ids"]]
    tokens = sum(lengths) * work.batch_size // len(lengths)
    limit = MatmulLimit(AutoConfig.from_pretrained(model), tokens=tokens)
    sides = _sides(work, model, texts, labels)
    found = in_turn({LIMIT: lambda seed: Result(limit.measure()), **sides}, repeats=options.repeats)
    print(f"{limit.gflops:.0f} GFLOP/s, {sum(lengths) / len(lengths):.1f} tokens a row")
    fastest = limit.time_of(limit.forward(lengths))
    return compare(f"predict {len(texts):,} rows", found, limit=fastest)


def _sides(work: Work, model: Path, texts: Sequence[str], labels: Sequence[str]) -> dict[str, Side]:
    """Return ours and the peers by name; the peers' names tell their batch sizes."""
    predictor = Predictor.from_path(model)
    pipe = pipeline("text-classification", model=str(model), device="cpu")
    sentences = encoder(work, model)
    cut = {"truncation": True, "max_length": work.max_length}

    def piped(texts: Sequence[str], size: int) -> Any:
        return pipe(list(texts), batch_size=size, **cut)

    def encoded(texts: Sequence[str], size: int) -> Any:
        return encode(sentences, texts, batch_size=size)

    def side(run: Callable[[], Any], named: Callable[[Any], str] | None) -> Side:
        def once(seed: int) -> Result:
            with stopwatch() as seconds:
                found = run()
            if named is None:
                return Result(seconds[0])
            pairs = zip(map(named, found), labels, strict=True)
            return Result(seconds[0], sum(one == other for one, other in pairs) / len(labels))

        return once

    best_pipe, best_encode = (best_size(run, texts[:SAMPLE]) for run in (piped, encoded))
    predictor.predict(texts[:SAMPLE])  # warm, as the peers are by now
    ours = side(lambda: predictor.predict(texts), lambda one: one.label)
    pipeline_side = side(lambda: piped(texts, best_pipe), lambda one: one["label"])
    return {
        "ours": ours,
        f"transformers pipeline, batch {best_pipe}": pipeline_side,
        f"sentence-transformers encode, batch {best_encode}": side(
            lambda: encoded(texts, best_encode), None
        ),
    }


if __name__ == "__main__":
    main()
