"""How soon something happens: ours against the bare imports.

python benchmarks/startup.py --json startup.json --plot startup.png

``fit`` from the start of the process to the end of its first optimizer step, against a process that
imports Lightning and loads model and tokenizer with transformers. ``--help``, ``list`` and
``fit --cfg job`` from start to end, against a process that imports torch and does nothing. Files
are in the system's cache and tokens in ours, as they are the second time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _report import compare, report
from _settings import Work, make_work, parse, parser
from _turns import Result, Side, in_turn

IMPORTS = """
import lightning.pytorch
from transformers import AutoModel, AutoTokenizer
AutoModel.from_pretrained({0!r})
AutoTokenizer.from_pretrained({0!r})
"""
WORDS = {
    "--help": ["--help"],
    "list": ["list"],
    "fit --cfg job": ["fit", "--cfg", "job"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(parser(__doc__, rows=2048), arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sides = make_sides(make_work(options, folder), folder, options)
        for side in [] if options.tiny else sides.values():
            side(0)  # reads the files from disk, and tokenizes
        found = in_turn(sides, repeats=options.repeats)
    rows = compare("fit, to the first step", found, ours="fit", peers=["imports and model load"])
    for name in WORDS:
        rows += compare(name, found, ours=name, peers=["import torch"])
    report(rows, options)


def make_sides(work: Work, folder: Path, options: argparse.Namespace) -> dict[str, Side]:
    """Return ours and the bare imports by name."""
    stamp = folder / "first-step"
    fit = [
        "fit",
        f"backbone.name={work.model}",
        f"stages.target.data.source={work.movies}",
        f"stages.target.data.train_size={work.rows}",
        f"stages.target.data.batch_size={work.batch_size}",
        f"stages.target.data.splits={{val: 0, test: {work.test}}}",
        "+stages.target.callbacks.first._target_=_first_step.FirstStep",
        f"+stages.target.callbacks.first.path={stamp}",
        f"hydra.run.dir={folder}/run-${{now:%H-%M-%S-%f}}",
    ]

    def first_step(seed: int) -> Result:
        stamp.unlink(missing_ok=True)
        start = time.time()
        run(["-m", "lightning_transfer", *fit])
        return Result(float(stamp.read_text()) - start)

    sides: dict[str, Side] = {
        "fit": first_step,
        "imports and model load": lambda seed: run(["-c", IMPORTS.format(str(work.model))]),
    }
    for name, words in WORDS.items():
        sides[name] = lambda seed, words=words: run(["-m", "lightning_transfer", *words])
    sides["import torch"] = lambda seed: run(["-c", "import torch"])
    return sides


def run(words: Sequence[str]) -> Result:
    """Run Python with these words, and return how long that took.

    Raises:
        RuntimeError: If it fails; the message holds what it has said.
    """
    own = str(Path(__file__).parent)  # where the callback is imported from
    path = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
    start = time.time()
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return Result(time.time() - start)


if __name__ == "__main__":
    main()
