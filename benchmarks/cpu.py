"""Effect of each piece of the optimised CPU code on the training time of two experiments.

python benchmarks/cpu.py --json cpu.json

The target stage of ``news_topics`` and the source stage of ``spam_low_resource`` are trained with
all pieces of :mod:`lightning_transfer.backbones.cpu`, and once without each of them:

- ``attention``: attention with cheaper dropout of its probabilities;
- ``dropout``: dropout with cheaper random masks;
- ``first_token``: the top layer computed for the first token only, if the head reads no other;
- ``memory``: freed memory stays with the process.

Each training runs through the command line in a separate process, in turn. The process replaces the
piece with the code of torch and transformers before it trains. The time is that of the training
with its validation; a ratio above 1 means that the stage is slower without the piece.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from _settings import empty_cache, parse
from _turns import Result, Side, in_turn, median, run_child

ALL = "all pieces"
PIECES = ("attention", "dropout", "first_token", "memory")
# No layer is frozen, so the activation cache would store nothing.
COMMON = ["comparison.baseline=null", "activation_cache=null", "logger=csv"]
EXPERIMENTS: Mapping[str, tuple[str, list[str]]] = {
    "news_topics": (
        "target",
        [
            "~baselines.frozen",
            "~baselines.no_source",
            "stages.target.data.splits.val=50",
            "stages.target.data.splits.test=50",
        ],
    ),
    "spam_low_resource": (
        "source",
        [
            "seeds=[0]",
            "~baselines.zero_shot",
            "~baselines.no_source",
            "curve.train_size=[]",
        ],
    ),
}
"""Experiment to its measured stage, and the overrides that leave out everything else."""
CLASSES = {
    "news_topics": ("business", "entertainment", "politics", "sports", "tech"),
    "spam_low_resource": ("ham", "spam"),
}
"""Experiment to its classes, for the generated texts of ``--tiny``."""


@dataclass(frozen=True)
class PieceRow:
    """Row of the table.

    Args:
        experiment: Name of the experiment.
        stage: Name of the measured stage.
        without: Piece that is left out, or ``all pieces``.
        seconds: Median training time in seconds.
        ratio: The median divided by that with all pieces.
        values: Training times in seconds, one for each repeat.
    """

    experiment: str
    stage: str
    without: str
    seconds: float
    ratio: float
    values: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all trainings and print the table; with ``--without``, train in this process."""
    options = _options(arguments)
    if options.without:
        print(json.dumps(train(options.without, options.experiment, options.overrides)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(options, Path(scratch))
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=512, help="training rows of news_topics (%(default)s)"
    )
    parser.add_argument(
        "--pieces", nargs="+", choices=PIECES, default=PIECES, help="pieces to leave out in turn"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="by default all cores")
    parser.add_argument("--tiny", action="store_true", help="random model and generated texts")
    parser.add_argument("--json", type=Path, help="file for the rows of the table")
    # Private options: arguments of the processes under measurement.
    parser.add_argument("--without", choices=[ALL, *PIECES], help=argparse.SUPPRESS)
    parser.add_argument("--experiment", choices=EXPERIMENTS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    return parse(parser, arguments)


def measure(options: argparse.Namespace, folder: Path) -> list[PieceRow]:
    """Return the rows of all experiments.

    Args:
        options: Options of the script.
        folder: Scratch folder.
    """
    if options.tiny:
        empty_cache(folder)  # of the package; otherwise the assets are in the user's cache
    rows = []
    for name, (stage, _) in EXPERIMENTS.items():
        # spam_low_resource has few training rows and uses all of them.
        sizes = [f"stages.{stage}.data.train_size={options.rows}"]
        overrides = sizes if options.tiny or name == "news_topics" else []
        overrides += _tiny(name, stage, folder) if options.tiny else []
        sides = {piece: _side(piece, name, overrides, folder) for piece in (ALL, *options.pieces)}
        print(name, file=sys.stderr)
        found = in_turn(sides, repeats=options.repeats)
        base = median(found[ALL])
        for piece, results in found.items():
            values = tuple(result.value for result in results)
            seconds = statistics.median(values)
            rows.append(PieceRow(name, stage, piece, seconds, seconds / base, values))
    return rows


def _side(piece: str, experiment: str, overrides: Sequence[str], folder: Path) -> Side:
    """Return a function that trains without a piece in a separate process."""

    def run_side(seed: int) -> Result:
        # The seed numbers the run folders only: all repeats do the same work.
        run = folder / f"{experiment}-{piece.replace(' ', '-')}-{seed}"
        options = ["--without", piece, "--experiment", experiment]
        found = run_child(Path(__file__), [*options, *overrides, f"hydra.run.dir={run}"])
        return Result(found["seconds"])

    return run_side


def _tiny(experiment: str, stage: str, folder: Path) -> list[str]:
    """Write a random model and generated texts, and return the overrides that use them."""
    from _tiny import write_classes, write_model

    texts = write_classes(folder / experiment, CLASSES[experiment])
    return [
        "backbone=hub",
        f"backbone.name={write_model(folder / 'model')}",
        f"stages.{stage}.data.source={texts}",
        f"stages.{stage}.data.tokens.max_length=32",
        f"stages.{stage}.data.splits={{val: 8, test: 8}}",
    ]


def train(piece: str, experiment: str, overrides: Sequence[str]) -> dict[str, float]:
    """Train a stage without a piece in this process, and return its seconds.

    Args:
        piece: Piece to leave out, or ``all pieces``.
        experiment: Name of the experiment.
        overrides: Further overrides, with ``hydra.run.dir``.

    Raises:
        SystemExit: If the command fails.
    """
    leave_out(piece)
    from lightning_transfer.cli import main as run_command

    stage, own = EXPERIMENTS[experiment]
    base = [f"+experiment={experiment}", f"order=[{stage}]", *COMMON, *own]
    status = run_command(["fit", *base, *overrides])
    if status:
        sys.exit(status)
    [run] = [o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")]
    [fitted] = Path(run).glob(f"stages/{stage}-seed*/fit.json")
    return {"seconds": json.loads(fitted.read_text())["seconds"]}


def leave_out(piece: str) -> None:
    """Replace a piece of the CPU code in this process with code that does nothing.

    Tasks and experiments import some functions by name, so call this before they are imported.

    Args:
        piece: A name in ``PIECES``; any other name leaves out nothing.
    """
    import importlib

    from torch import nn

    from lightning_transfer.backbones import cpu

    # The module, not the function of the same name in the package.
    installation = importlib.import_module("lightning_transfer.backbones.cpu.install")
    if piece == "attention":
        # No module is recognised, so each keeps its config and the attention of torch.
        _replace(installation, "uses_attention_interface", lambda module: False)
    elif piece == "dropout":
        _replace(installation, "FastDropout", nn.Dropout)  # a dropout keeps its own class
    elif piece == "first_token":
        _replace(cpu, "first_token_only", lambda layer: contextlib.nullcontext())
    elif piece == "memory":
        assert "lightning_transfer.tasks" not in sys.modules, "tasks have imported the function"
        _replace(cpu, "keep_freed_memory", lambda: False)
        _replace(cpu, "release_freed_memory", lambda: False)


def _replace(module: object, name: str, replacement: object) -> None:
    """Set an attribute that must exist, so that a renamed piece does not stay in unnoticed."""
    getattr(module, name)
    setattr(module, name, replacement)


def table(rows: Sequence[PieceRow]) -> str:
    """Return a Markdown table."""
    lines = [
        "| experiment | stage | without | seconds | ratio |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for row in rows:
        without = "" if row.without == ALL else f"`{row.without}`"
        lines.append(
            f"| {row.experiment} | {row.stage} | {without} | {row.seconds:.1f} | {row.ratio:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
