"""The tutorial runs from its first cell to its last, in plain Python, and ends with a valid submission."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# as a notebook does: the cells share their names, and what the last line of one gives is shown
RUNNER = """
import ast, json, sys
from kit.report import figures
shared = {}
for number, source in enumerate(json.load(sys.stdin)):
    *body, last = ast.parse(source).body
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), shared)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), f"cell {number}", "exec"), shared)
        continue
    shown = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), shared)
    if hasattr(shown, "savefig"):
        figures.save(shown, f"{number}.png")
"""


def test_it_has_ten_cells_explained_and_is_kept_without_outputs():
    assert len(CODE) == 10
    assert NOTEBOOK["cells"][0]["cell_type"] == "markdown"
    for cell in CODE:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"]) <= 20


@pytest.mark.slow
def test_it_walks_from_demo_data_to_a_valid_submission(tmp_path):
    sources = json.dumps(["".join(cell["source"]) for cell in CODE])
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER]
    done = subprocess.run(command, input=sources, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out-of-fold score" in done.stdout
    assert "submission.csv is valid, score 0." in done.stdout

    sample, built = (
        list(csv.reader((tmp_path / "tutorial" / name).read_text().splitlines()))
        for name in ("data/sample_submission.csv", "submission.csv")
    )
    assert built[0] == ["id", "rle_mask"]
    assert [row[0] for row in built] == [row[0] for row in sample]
    for _, text in built[1:]:
        runs = [int(number) for number in text.split()]
        pairs = list(zip(runs[::2], runs[1::2], strict=True))
        assert all(start >= 1 and length >= 1 and start + length - 1 <= 101 * 101 for start, length in pairs)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["1.png", "2.png", "7.png", "8.png"]
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".png"} == {"tutorial"}
