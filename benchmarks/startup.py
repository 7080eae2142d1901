"""Startup time of the commands, against the imports alone.

python benchmarks/startup.py --json startup.json --plot startup.png

``fit`` is measured from the start of the process to the end of its first optimizer step. Its peer
is a process that imports Lightning and loads model and tokenizer with transformers. ``--help``,
``list`` and ``fit --cfg job`` are measured from start to end; their peer is a process that imports
torch. As in any second run, the files are in the cache of the operating system, and the tokens in
the cache of the package.
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
from _settings import Work, make_parser, make_work, parse
from _turns import Result, Side, in_turn

IMPORTS = """
import lightning.pytorch
from transformers import AutoModel, AutoTokenizer
AutoModel.from_pretrained({0!r})
AutoTokenizer.from_pretrained({0!r})
"""
COMMANDS = {
    "--help": ["--help"],
    "list": ["list"],
    "fit --cfg job": ["fit", "--cfg", "job"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table."""
    options = parse(make_parser(__doc__, rows=2048), arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sides = make_sides(make_work(options, folder), folder, options)
        for side in [] if options.tiny else sides.values():
            side(0)  # reads the files from disk and tokenizes the texts
        found = in_turn(sides, repeats=options.repeats)
    rows = compare("fit, to the first step", found, ours="fit", peers=["imports and model load"])
    for name in COMMANDS:
        rows += compare(name, found, ours=name, peers=["import torch"])
    report(rows, options)


def make_sides(work: Work, folder: Path, options: argparse.Namespace) -> dict[str, Side]:
    """Return the commands and the peers by name."""
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
        f"hydra.run.dir={folder}/run-${{now:%H-%M-%S-%f}}",  # a new folder for each run
    ]

    def first_step(seed: int) -> Result:
        stamp.unlink(missing_ok=True)
        start = time.time()  # wall-clock time, which two processes share
        run(["-m", "lightning_transfer", *fit])
        return Result(float(stamp.read_text()) - start)

    sides: dict[str, Side] = {
        "fit": first_step,
        "imports and model load": lambda seed: run(["-c", IMPORTS.format(str(work.model))]),
    }
    for name, command in COMMANDS.items():
        # The default argument binds the command of this iteration.
        sides[name] = lambda seed, command=command: run(["-m", "lightning_transfer", *command])
    sides["import torch"] = lambda seed: run(["-c", "import torch"])
    return sides


def run(arguments: Sequence[str]) -> Result:
    """Run Python with some arguments, and return its time in seconds.

    Raises:
        RuntimeError: If the process fails; the message contains its standard error.
    """
    here = str(Path(__file__).parent)  # for the import of _first_step
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    start = time.time()
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return Result(time.time() - start)


if __name__ == "__main__":
    main()
