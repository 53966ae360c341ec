"""The measurement of growth: what a planted script takes, powers that are known, and the kit's own first steps."""

import math

import numpy as np
import pandas as pd
import pytest

from kit.errors import InputError
from kit.report import figures
from tests.benchmarks import growth
from tests.report.drawn import assert_readable

TAKES = """
import os, sys, time
from pathlib import Path
held = bytearray(int(sys.argv[1]) << 20)  # zeros are memory only once they are written
held[::4096] = b"x" * len(held[::4096])
time.sleep(float(sys.argv[2]))
assert (Path(os.environ["KIT_DATA"]) / "train.csv").exists()
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    (tmp_path / "takes.py").write_text(TAKES)
    (tmp_path / "fails.py").write_text("raise SystemExit('the reason')")
    monkeypatch.setattr(growth, "SCRIPTS", tmp_path)


@pytest.mark.slow
def test_seconds_and_memory_are_those_of_the_script(planted):
    table = growth.measure([8], {"light": ["takes.py", "1", "0"], "heavy": ["takes.py", "300", "0.5"]})
    light, heavy = table.to_dict("records")
    assert (light["step"], light["tiles"], heavy["step"]) == ("light", 8, "heavy")
    assert heavy["mib"] - light["mib"] == pytest.approx(299, abs=5)
    assert heavy["seconds"] > 0.5


def test_a_script_that_fails_says_why(planted):
    with pytest.raises(InputError, match=r"fails\.py failed: the reason"):
        growth.measure([8], {"bad": ["fails.py"]})


def test_the_power_is_that_of_the_last_stretch():
    tiles = np.array([500, 2_000, 8_000])
    table = pd.DataFrame({"step": "a", "tiles": tiles, "seconds": [7.0, 1.0, 8.0], "mib": 3.0 * tiles})
    assert growth.exponent(table, "a") == pytest.approx(math.log(8, 4))
    assert growth.exponent(table, "a", "mib") == pytest.approx(1)
    assert growth.markdown(table).splitlines()[-1] == (
        "| a | 7.0 s, 1,500 MiB | 1.0 s, 6,000 MiB | 8.0 s, 24,000 MiB | tiles^1.50 |"
    )


def test_the_picture_has_a_line_for_each_step_and_can_be_read():
    steps = [{"step": step, "tiles": tiles, "seconds": tiles / cost, "mib": 900.0 + tiles}
             for step, cost in (("prepare", 100), ("decide", 70)) for tiles in growth.SIZES]  # fmt: skip
    figure = figures.growth(pd.DataFrame(steps), "a machine")
    for axes in figure.axes:
        assert len(axes.lines) == 3  # and the linear one
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), growth.SIZES)
    assert_readable(figure)


@pytest.mark.slow
def test_the_kits_own_script_is_measured():
    table = growth.measure([55], {"prepare": growth.STEPS["prepare"]})
    assert table["tiles"].tolist() == [55]
    assert (table["seconds"] > 0).all()
    assert table["mib"].between(50, 2_000).all()
