"""Time per token for growing data and models, without peers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from _ours import activation_cache, fit, make_task, movies
from _report import Row
from _settings import Work
from transformers import AutoConfig, AutoModel, AutoTokenizer


def time_per_token(
    work: Work, folder: Path, *, rows: Sequence[int], layers: Sequence[int]
) -> tuple[list[Row], dict[str, dict[int, float]]]:
    """Measure one epoch at each size, once.

    Args:
        work: Work with the settings of all sizes.
        folder: Scratch folder.
        rows: Numbers of training rows, ascending.
        layers: Numbers of layers of the model, ascending, with the smallest number of rows.

    Returns:
        A table row for each size except the smallest, which it is compared with; and the points of
        each curve by title.
    """
    # One test row, because no score is computed.
    work = dataclasses.replace(work, movies=repeat(work, max(rows), folder), test=1, epochs=1)
    by_rows = {
        count: _microseconds(dataclasses.replace(work, rows=count), folder) for count in rows
    }
    small = dataclasses.replace(work, rows=rows[0])
    # Each layer costs the same, so the time per token and layer should be constant.
    by_layers = {
        n: _microseconds(dataclasses.replace(small, model=deep(work, n, folder)), folder) / n
        for n in layers
    }
    found = [
        *_against_smallest(by_rows, "time per token, {:,} rows", "µs"),
        *_against_smallest(by_layers, "time per token and layer, {} layers", "µs"),
    ]
    return found, {
        "µs per token, by training rows": by_rows,
        "µs per token and layer, by layers of the model": by_layers,
    }


def _against_smallest(points: dict[int, float], work: str, unit: str) -> list[Row]:
    [smallest, *others] = points
    return [
        Row(work.format(size), f"ours at {smallest:,}", unit, points[size], points[smallest])
        for size in others
    ]


def _microseconds(work: Work, folder: Path) -> float:
    """Return the microseconds of an epoch per token, without padding."""
    data = movies(work, seed=0)
    task = make_task(work, data, seed=0)
    seconds = fit(task, data, folder=folder, epochs=1, callbacks=activation_cache())
    return seconds / int(data.train_dataloader().dataset.lengths.sum()) * 1e6


def repeat(work: Work, rows: int, folder: Path) -> Path:
    """Write the snippets several times until there are enough rows, and return the file.

    Each copy ends with a number, because the DataModule removes equal texts from the training rows.

    Args:
        work: Work with the file of the snippets.
        rows: Number of training rows needed.
        folder: Folder of the new file.
    """
    lines = work.movies.read_text(encoding="utf-8").splitlines()
    copies = 1 + 2 * rows // len(lines)  # twice as many as needed, for the test rows and duplicates
    path = folder / "repeated.txt"
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            file.writelines(f"{line.rstrip()} {copy}\n" for line in lines)
    return path


def deep(work: Work, layers: int, folder: Path) -> Path:
    """Write a model with another number of layers and random weights; return its folder."""
    path = folder / f"{layers}-layers"
    config = AutoConfig.from_pretrained(work.model)
    config.num_hidden_layers = layers
    # The time of a step does not depend on the weights.
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(work.model).save_pretrained(path)
    return path
