"""Time of predicting many texts, against the transformers pipeline and sentence-transformers.

python benchmarks/predict.py --json predict.json --plot predict.png

The time is that from texts in memory to labels in memory. All sides have the same weights: MiniLM,
trained for a short time on news so that the accuracy can be compared. The batch sizes of the peers
are the fastest of a few, measured on the first texts; ours is the default. sentence-transformers
computes embeddings without labels.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _limit import MatmulLimit
from _ours import CLASSES, learn_news, session
from _report import LIMIT, Row, compare, report
from _sentences import encode, encoder
from _settings import Work, make_parser, parse
from _turns import Result, Side, best_size, in_turn, stopwatch
from transformers import AutoConfig, pipeline

from lightning_transfer.checkpoints import load_tokenizer
from lightning_transfer.data import MovieSnippets
from lightning_transfer.inference import Predictor

SAMPLE = 640  # number of texts to choose the batch sizes


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table."""
    parser = make_parser(__doc__, rows=10_000)
    parser.add_argument("--news", type=int, default=2048, help="training rows (%(default)s)")
    options = parse(parser, arguments)
    with session(options) as (work, folder):
        report(rows_of_table(work, folder, options), options)


def rows_of_table(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return a row for each peer."""
    model = learn_news(work, folder, rows=options.news)
    loaded = MovieSnippets(str(work.movies)).load_rows()
    texts = loaded["text"][: work.rows]
    classes = CLASSES.infer_labels([])
    labels = [classes.names[CLASSES.parse(raw, classes)] for raw in loaded["label"][: work.rows]]
    tokenized = load_tokenizer(model)(texts, truncation=True, max_length=work.max_length)
    lengths = [len(ids) for ids in tokenized["input_ids"]]
    # Tokens of a mean batch: the shape of the measured products.
    tokens = sum(lengths) * work.batch_size // len(lengths)
    limit = MatmulLimit(AutoConfig.from_pretrained(model), tokens=tokens)
    sides = _sides(work, model, texts, labels)
    found = in_turn({LIMIT: lambda seed: Result(limit.measure()), **sides}, repeats=options.repeats)
    print(f"{limit.gflops:.0f} GFLOP/s, {sum(lengths) / len(lengths):.1f} tokens a row")
    fastest = limit.time_of(limit.forward(lengths))
    return compare(f"predict {len(texts):,} rows", found, limit=fastest)


def _sides(work: Work, model: Path, texts: Sequence[str], labels: Sequence[str]) -> dict[str, Side]:
    """Return our side and the peers by name, with the batch sizes of the peers."""
    predictor = Predictor.from_path(model)
    # All three load the weights before the measured time.
    pipe = pipeline("text-classification", model=str(model), device="cpu")
    sentences = encoder(work, model)
    truncation = {"truncation": True, "max_length": work.max_length}

    def piped(texts: Sequence[str], size: int) -> Any:
        return pipe(list(texts), batch_size=size, **truncation)

    def encoded(texts: Sequence[str], size: int) -> Any:
        return encode(sentences, texts, batch_size=size)

    def side(run: Callable[[], Any], label_of: Callable[[Any], str] | None) -> Side:
        def once(seed: int) -> Result:
            with stopwatch() as seconds:
                found = run()
            if label_of is None:
                return Result(seconds[0])
            pairs = zip(map(label_of, found), labels, strict=True)
            return Result(seconds[0], sum(one == other for one, other in pairs) / len(labels))

        return once

    best_pipe, best_encode = (best_size(run, texts[:SAMPLE]) for run in (piped, encoded))
    predictor.predict(texts[:SAMPLE])  # warm-up, which the peers had in best_size
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
