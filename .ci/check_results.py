"""Check of the results of the main experiment: `python check_results.py RUN_FOLDER`.

Goals are printed only. Floors are reached by a correct build on any machine; the check fails below
one of them.
"""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
results = json.loads((folder / "results.json").read_text())
rows = {row["name"]: row["metrics"]["pearson"] for row in results["rows"]}
comparison = results["comparison"]
goals = {
    "zero-shot r >= 0.65": rows["zero_shot"]["mean"] >= 0.65,
    "128 labels r >= 0.70": rows["transfer"]["mean"] >= 0.70,
}
floors = {
    "zero-shot r >= 0.62": rows["zero_shot"]["mean"] >= 0.62,
    "128 labels r >= 0.66": rows["transfer"]["mean"] >= 0.66,
    "above the baseline by more than the interval": comparison["ci95"][0] > 0,
    "verdict": comparison["verdict"] == "positive",
    **{
        name: (folder / name).exists()
        for name in ("results.md", "config.yaml", "fit.log", "learning_curves.png", "model")
    },
}
for name, holds in goals.items():
    print(f"{'reached' if holds else 'missed'}: {name}")
for name, holds in floors.items():
    print(f"{'holds' if holds else 'FAILS'}: {name}")
print(json.dumps({name: row["values"] for name, row in rows.items()}), json.dumps(comparison))
sys.exit(0 if all(floors.values()) else 1)
