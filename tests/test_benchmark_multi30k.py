"""Benchmark of translation with a parent model, at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.domains.test_parallel_files import write

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "multi30k.py"
WORDS = {"en": ("dog", "runs", "red"), "fr": ("chien", "court", "rouge"), "de": ("Hund", "rennt")}


@pytest.mark.slow
def test_children_are_scored_with_and_without_a_parent_and_not_repeated(tmp_path):
    for name, count in (("train", 40), ("val", 4), ("test_2016_flickr", 6)):
        for language, words in WORDS.items():
            lines = [f"{' '.join(words)} {name} {number}" for number in range(count)]
            write(tmp_path / f"{name}.{language}", lines, compressed=name == "train")
    out, table = tmp_path / "out", tmp_path / "rows.json"
    options = ["--children", "8", "--epochs", "1", "--out", str(out), "--json", str(table)]
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--tiny", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(table.read_text())
    assert [(row["pairs"], row["parent"]) for row in rows] == [("8", True), ("8", False)]
    assert all(0 <= row["chrf"]["mean"] <= 100 for row in rows)
    assert "| 8 | no |" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is done" not in again.stdout
    assert again.stdout.splitlines() == done.stdout.splitlines()[-len(again.stdout.splitlines()) :]
