"""Our time per token as the data and the model grow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from _ours import fit, make_task, movies, store
from _report import Row
from _settings import Work
from transformers import AutoConfig, AutoModel, AutoTokenizer


def time_per_token(
    work: Work, folder: Path, *, rows: Sequence[int], layers: Sequence[int]
) -> tuple[list[Row], dict[str, dict[int, float]]]:
    """Measure one epoch at each size, once.

    Args:
        work: What all sizes share.
        folder: Scratch folder.
        rows: Training rows, ascending.
        layers: Layers of the model, ascending, at the first number of rows.

    Returns:
        A row for each size but the smallest, against which it is held; and the points by title.
    """
    work = dataclasses.replace(work, movies=repeat(work, max(rows), folder), test=1, epochs=1)
    by_rows = {
        count: _microseconds(dataclasses.replace(work, rows=count), folder) for count in rows
    }
    small = dataclasses.replace(work, rows=rows[0])
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
    """Return the microseconds that a real token takes."""
    data = movies(work, seed=0)
    task = make_task(work, data, seed=0)
    seconds = fit(task, data, folder=folder, epochs=1, own=store())
    return seconds / int(data.train_dataloader().dataset.lengths.sum()) * 1e6


def repeat(work: Work, rows: int, folder: Path) -> Path:
    """Write the snippets as often as it takes to have enough, with a number behind each copy.

    The number keeps them apart: a text that comes again is left out of the training rows.
    """
    lines = work.movies.read_text(encoding="utf-8").splitlines()
    copies = 1 + 2 * rows // len(lines)  # twice as many as needed: there are repeats in them
    path = folder / "repeated.txt"
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            file.writelines(f"{line.rstrip()} {copy}\n" for line in lines)
    return path


def deep(work: Work, layers: int, folder: Path) -> Path:
    """Write a model of another depth with random weights, and return its folder."""
    path = folder / f"{layers}-layers"
    config = AutoConfig.from_pretrained(work.model)
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(work.model).save_pretrained(path)
    return path
