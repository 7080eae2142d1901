"""Peak memory of a training process, against Hugging Face's Trainer.

python benchmarks/memory.py --json memory.json --plot memory.png

All layers are trained for one epoch, in a separate process without imports of the other sides. The
value is the peak of its resident memory, from the first import to the score. The processes of
Trainer read tokenized rows, written by another process; ours reads and tokenizes the texts.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from _report import compare, report
from _settings import Work, make_parser, make_work, parse
from _turns import Result, Side, in_turn, run_child

WORK = "peak memory, all layers trained"
PEERS = {"trainer": "Trainer", "grouped": "Trainer, grouped by length"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table; with ``--side``, run one side in this process."""
    parser = make_parser(__doc__, rows=2048, epochs=1)
    # Private options: arguments of the processes under measurement.
    parser.add_argument("--side", choices=["ours", *PEERS, "prepare"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parse(parser, arguments)
    if options.side:
        print(json.dumps(run(options.side, options.folder, options.seed)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        values = asdict(make_work(options, folder))
        (folder / "work.json").write_text(json.dumps(values, default=str))
        sides = {"ours": side("ours", folder, threads=options.threads)}
        sides |= {name: side(k, folder, threads=options.threads) for k, name in PEERS.items()}
        report(compare(WORK, in_turn(sides, repeats=options.repeats), unit="MiB"), options)


def side(name: str, folder: Path, *, threads: int) -> Side:
    """Return a function that runs a side in a separate process, after one that writes the rows."""

    def run_side(seed: int) -> Result:
        options = ["--folder", str(folder), "--seed", str(seed), "--threads", str(threads)]
        if not (folder / f"rows-{seed}.json").is_file():
            run_child(Path(__file__), [*options, "--side", "prepare"])
        found = run_child(Path(__file__), [*options, "--side", name])
        return Result(found["peak"], found["score"])

    return run_side


def run(name: str, folder: Path, seed: int) -> dict[str, float | None]:
    """Run a side in this process, and return its peak memory in MiB and its score."""
    values = json.loads((folder / "work.json").read_text())
    paths = {key: Path(values[key]) for key in ("model", "movies", "news")}
    work = Work(**{**values, **paths})
    rows = folder / f"rows-{seed}.json"
    # Imports are inside the branches: a process must not import the other side.
    if name == "prepare":
        from _ours import movies, rows_of

        data = movies(work, seed=seed)
        rows.write_text(json.dumps([rows_of(data), rows_of(data, "test")]))
        return {"peak": peak(), "score": None}
    if name == "ours":
        from _ours import Ours

        result = Ours(work, folder)(seed)
    else:
        import _hf

        train, test = json.loads(rows.read_text())
        result = _hf.train(work, train, test, seed=seed, grouped=name == "grouped")
    return {"peak": peak(), "score": result.score}


def peak() -> float:
    """Return the peak of the resident memory of this process, in MiB."""
    status = Path("/proc/self/status")
    # Preferred, because the value of getrusage includes the process before its exec.
    if status.is_file():
        [line] = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1024 ** (2 if sys.platform == "darwin" else 1)  # macOS counts bytes


if __name__ == "__main__":
    main()
