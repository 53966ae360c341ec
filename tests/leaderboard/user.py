"""A user's folder: small data, and runs as if they had been trained, with out-of-fold scores and test predictions."""

import json

import numpy as np

from kit.data import tiles
from kit.runs import write_json, write_text
from tests.data import small
from tests.leaderboard import quick


def folder(path):
    """Data as Kaggle delivers it in path/data."""
    small.write(path / "data", small.files())
    return path


def add_run(home, name, score, seed=None):
    """runs/NAME of three folds' mean score; its predictions are random by `seed`, or by its name."""
    loaded = tiles.load(home / "data", progress=False)
    rng = np.random.default_rng(sum(name.encode()) if seed is None else seed)
    path = home / "runs" / name
    write_text(path / "recipe.toml", 'name = "baseline"\n')
    write_json(path / "environment.json", {"data": str(home / "data"), "fingerprint": loaded.fingerprint, "folds": 3})
    write_json(path / "scores.json", {"folds": {}, "mean": score})
    np.save(path / "test.npy", rng.random((len(loaded.test_ids), 101, 101)).astype(np.float16))
    write_text(path / "test_ids.csv", "\n".join(["id", *loaded.test_ids]) + "\n")


def submit(home, *arguments, **variables):
    """(exit code, stdout, stderr) of scripts/submit.py in a user's folder."""
    return quick.run("submit.py", *arguments, cwd=home, **variables)


def ledger_of(home):
    """The lines of the ledger, in order."""
    path = home / "submissions" / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
