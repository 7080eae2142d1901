"""Scores, trainable parameters, time and peak memory of the fine-tuning methods, news to movies.

python benchmarks/finetuning.py

The source stage is trained once. Each method then trains the target stage from it, with the same
rows, epochs and seeds, and the weights of the last step are tested. The learning rate is chosen for
each method among a few, by validation rows and a seed that is not reported. Every job is a separate
process. Finished jobs are not repeated, so the script can be interrupted and started again.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy import stats

from lightning_transfer.checkpoints import read_checkpoint

METHODS = {
    "full": (3e-5, 1e-4),
    "ulmfit": (3e-5, 1e-4, 3e-4, 1e-3),
    "frozen": (1e-3, 3e-3),
    "last_two": (1e-4, 3e-4),
    "gradual": (1e-5, 3e-5, 1e-4),
    "chain_thaw": (1e-4,),
    "l2_sp": (3e-5,),
    "bitfit": (1e-3,),
    "lora": (1e-3, 3e-3),
    "ia3": (5e-3,),
    "prefix": (5e-3,),
    "bottleneck": (1e-3,),
}
"""Fine-tuning method to its candidate learning rates; a single one is used without a choice."""
SEEDS = 5  # of the methods in --more
CHOOSING_SEED = 100  # different from the reported seeds


def main() -> None:
    """Run the unfinished jobs and print the table."""
    options = _options()
    folder = options.folder.absolute()
    # Jobs that run at the same time share the cores.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.jobs))
    source = _source(folder)
    with ThreadPoolExecutor(options.jobs) as pool:
        chosen = list(pool.map(lambda name: _choose_rate(folder, source, name), options.methods))
        rates = dict(zip(options.methods, chosen, strict=True))
        more = [name for name in rates if name in options.more]
        sizes = [(labels, name) for labels in (128, 512) for name in more]
        sizes += [(128, name) for name in rates if name not in more]

        def target(job: tuple[int, str]) -> Path:
            labels, name = job
            count = SEEDS if name in more else options.seeds
            return _target(folder, source, labels, name, rates[name], count=count)

        runs = list(pool.map(target, sizes))
    rows = [
        {"finetuning": name, "labels": labels, "lr": rates[name], **_measured(run, source)}
        for (labels, name), run in zip(sizes, runs, strict=True)
    ]
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--more", nargs="*", default=["full", "ulmfit"], help="methods with 5 seeds and 512 labels"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds of the other methods (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="jobs at a time, which share the cores")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/finetuning"), help="folder of the runs"
    )
    parser.add_argument("--json", type=Path, help="file for the rows of the table")
    return parser.parse_args()


def _source(folder: Path) -> Path:
    """Train the source stage, and return its checkpoint."""
    _fit(folder / "source", ["order=[source]", "seeds=[0]"])
    return folder / "source/stages/source-seed0/final.ckpt"


def _choose_rate(folder: Path, source: Path, name: str) -> float:
    """Return the learning rate with the best validation score."""
    if len(METHODS[name]) == 1:
        return METHODS[name][0]
    best = {}
    for rate in METHODS[name]:
        run = folder / "choosing" / f"{name}-{rate:g}"
        seeds = f"seeds=[{CHOOSING_SEED}]"
        splits = "stages.target.data.splits={val: 1000, test: 50}"
        # One validation, after the last of ten epochs.
        validation = "trainer.check_val_every_n_epoch=10"
        _fit(run, [*_overrides(source, name, 128, rate), seeds, splits, validation])
        logged = (run / f"stages/target-seed{CHOOSING_SEED}/metrics.csv").read_text().splitlines()
        column = logged[0].split(",").index("val/pearson")
        # Rows of the training loss have no validation score.
        last = [line.split(",")[column] for line in logged[1:] if line.split(",")[column]][-1]
        best[rate] = float(last)
    rate = max(best, key=lambda rate: best[rate])
    print(f"{name}: " + ", ".join(f"lr {r:g} scores {v:.3f}" for r, v in best.items()), flush=True)
    return rate


def _target(folder: Path, source: Path, labels: int, name: str, rate: float, *, count: int) -> Path:
    """Train and test a method with ``count`` seeds, and return the run folder."""
    run = folder / f"{name}-{labels}"
    seeds = ",".join(map(str, range(count)))
    splits = "stages.target.data.splits={val: 0, test: 2000}"
    _fit(run, [*_overrides(source, name, labels, rate), f"seeds=[{seeds}]", splits])
    print(f"{name} with {labels} labels is done", flush=True)
    return run


def _overrides(source: Path, name: str, labels: int, rate: float) -> list[str]:
    """Return the overrides of a target stage."""
    return [
        "order=[target]",
        f"stages.target.init_from={source}",
        f"finetuning@stages.target.finetuning={name}",
        f"stages.target.data.train_size={labels}",
        f"stages.target.optimizer.lr={rate}",
        f"stages.target.epochs={10 if labels <= 128 else 5}",
        "stages.target.keep=last",  # the weights of the last step, without a selection
    ]


def _fit(run: Path, overrides: Sequence[str]) -> None:
    """Run a job in a separate process, unless it is finished, and write its peak memory."""
    if (run / "benchmark.json").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)  # an unfinished job starts again
    command = [sys.executable, "-m", "lightning_transfer", "fit", "+experiment=news_to_movies"]
    # One stage alone: no baselines, and no comparison with them.
    common = [
        "~baselines.zero_shot",
        "~baselines.no_source",
        "comparison.baseline=null",
        f"hydra.run.dir={run}",
    ]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_name(f"{run.name}.out").open("w") as out:
        process = subprocess.Popen([*command, *common, *overrides], stdout=out, stderr=out)
        # wait4 returns the memory of this process alone; getrusage adds up all children.
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{run} failed:\n{run.with_suffix('.out').read_text()}")
    # Written last: the file marks a finished job. ru_maxrss is in KiB on Linux.
    (run / "benchmark.json").write_text(json.dumps({"peak_mib": used.ru_maxrss / 1024}))


def _measured(run: Path, source: Path) -> dict[str, object]:
    """Return the results of a run as cells of the table."""
    found = json.loads((run / "results.json").read_text())["rows"][-1]
    score = found["metrics"]["pearson"]
    # The seeds change the same tensors, so the first one is enough to count them.
    [first, *others] = sorted(run.glob("stages/target-seed*/final.ckpt"))
    return {
        "pearson": score["mean"],
        "ci95": score["ci95"],
        "values": score["values"],
        "trained": _count_changed(first, source),
        "seconds": found["seconds"],
        "runs": 1 + len(others),
        **json.loads((run / "benchmark.json").read_text()),
    }


def _count_changed(after: Path, before: Path) -> int:
    """Return the number of parameters in tensors changed or added by the stage."""
    old, new = (read_checkpoint(path)["state_dict"] for path in (before, after))
    parts = ("backbone.", "head.")
    return sum(
        value.numel()
        for name, value in new.items()
        if name.startswith(parts)
        # peft renames the weights of a wrapped layer; the source has them by their plain names.
        and ((plain := name.replace(".base_layer.", ".")) not in old or not value.equal(old[plain]))
    )


def _table(rows: Sequence[dict]) -> str:
    """Return a Markdown table with the differences from full fine-tuning, paired by seed."""
    lines = [
        "| fine-tuning method | labels | lr | Pearson r | difference from `full` | trained "
        "| seconds | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    full = {row["labels"]: row["values"] for row in rows if row["finetuning"] == "full"}
    for row in rows:
        low, high = row["ci95"]
        lines.append(
            f"| `{row['finetuning']}` | {row['labels']} | {row['lr']:g} | {row['pearson']:.3f} "
            f"[{low:.3f}, {high:.3f}] | {_difference(row, full.get(row['labels']))} | "
            f"{row['trained']:,} | {row['seconds']:.0f} | {row['peak_mib']:,.0f} |"
        )
    return "\n".join(lines)


def _difference(row: dict, full: Sequence[float] | None) -> str:
    """Return the mean difference from full fine-tuning with its 95 % interval."""
    if full is None or row["finetuning"] == "full":
        return ""
    pairs = [ours - theirs for ours, theirs in zip(row["values"], full, strict=False)]
    mean = statistics.fmean(pairs)
    # Interval of Student's t distribution; with fewer seeds than `full`, its first ones are used.
    half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


if __name__ == "__main__":
    main()
