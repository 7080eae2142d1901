"""Peak memory of a training process: ours against Hugging Face's Trainer.

python benchmarks/memory.py --json memory.json --plot memory.png

All layers are trained for an epoch, each time in a process of its own that imports no other side;
its resident memory counts, from the first import to the score. Trainer's are given their rows as
tokens, written by a process before them; ours reads and tokenizes the texts itself.
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
from _settings import Work, make_work, parse, parser
from _turns import Result, Side, child, in_turn

WORK = "peak memory, all layers trained"
PEERS = {"trainer": "Trainer", "grouped": "Trainer, grouped by length"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table; or be one of the processes that are measured."""
    made = parser(__doc__, rows=2048, epochs=1)
    made.add_argument("--side", choices=["ours", *PEERS, "prepare"], help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of such a process
    made.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parse(made, arguments)
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
    """Return what runs a side in a process of its own, after one that writes down the rows."""

    def run_child(seed: int) -> Result:
        words = ["--folder", str(folder), "--seed", str(seed), "--threads", str(threads), "--side"]
        if not (folder / f"rows-{seed}.json").is_file():
            child(Path(__file__), [*words, "prepare"])
        found = child(Path(__file__), [*words, name])
        return Result(found["peak"], found["score"])

    return run_child


def run(name: str, folder: Path, seed: int) -> dict[str, float | None]:
    """Do a side's work in this process, and return its peak memory in MiB and its score."""
    values = json.loads((folder / "work.json").read_text())
    paths = {key: Path(values[key]) for key in ("model", "movies", "news")}
    work = Work(**{**values, **paths})
    rows = folder / f"rows-{seed}.json"
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
    """Return the most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone; getrusage counts the one that started it, too
        [line] = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1024 ** (2 if sys.platform == "darwin" else 1)  # macOS counts bytes


if __name__ == "__main__":
    main()
