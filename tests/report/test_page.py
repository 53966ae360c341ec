"""The page as a file: whole, self-contained, and what is text stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit.errors import InputError
from kit.report import changes, gallery, page
from kit.report.figures.style import chart
from kit.report.plates import Plate, Section, Table
from tests.report.planted import planted_run, planted_tiles

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)></script>\"'&{{ 1 }}"


class Reader(HTMLParser):
    """The tags of a page with their attributes, its text, and the JSON of its tiles."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.words, self.data = [], [], ""
        self.feed(path.read_text("utf-8"))
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attrs = self.tags[-1] if self.tags else ("", {})
        if (tag, attrs.get("type")) == ("script", "application/json"):
            self.data += data
        elif tag not in ("script", "style"):
            self.words.append(data)

    def references(self) -> list[str]:
        links = [attrs.get(name) for _, attrs in self.tags for name in ("src", "href") if attrs.get(name)]
        sheets = json.loads(self.data)["sheets"] if self.data else {}
        return links + [f"tiles/{name}" for names in sheets.values() for name in names]


def section(name="numbers") -> Section:
    figure, axes = chart("Title", "Steps", "Loss")
    axes.plot([1, 2])
    table = pd.DataFrame(
        {"name": [EVIL, "b"], "value": [0.12345678, np.nan], "count": [12345, 1], "sure": [True, False]}
    )
    return Section(name, "Numbers", [Plate("curve", "How?", figure, "So."), Table("some", "What?", table)])


@pytest.fixture
def tiles_section(tmp_path):
    tiles = planted_tiles()
    tiles.train_ids[3] = "<b>&'\"</b>"
    run = planted_run(tmp_path / "runs" / "a", tiles)
    return gallery.of_run(run, tiles, changes.judge(run, tiles, None))


def test_everything_it_names_is_there_and_nothing_is_of_the_network(tmp_path, tiles_section):
    path = page.write(tmp_path / "report", "A run", [section(), tiles_section, Section("none", "Left out", [])])
    assert path == tmp_path / "report" / "index.html"
    read = Reader(path)
    local = [link for link in read.references() if not link.startswith(("#", "data:,"))]
    assert {"figures/curve.png", "figures/curve.svg", "tiles/truth_000.png"} <= set(local)
    assert all((path.parent / link).is_file() for link in local)
    files = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    assert files == {"index.html", *local}
    anchors = {attrs["id"] for _, attrs in read.tags if "id" in attrs}
    assert {link[1:] for link in read.references() if link.startswith("#")} <= anchors
    assert not re.search(
        r"(https?:)?//\w|@import|fetch\(|XMLHttp|import\(", re.sub(r"(?m)^\s*//.*", "", path.read_text())
    )
    assert "Left out" not in read.text


def test_markup_in_names_stays_text(tmp_path, tiles_section):
    path = page.write(tmp_path / "report", EVIL, [section(), tiles_section])
    read = Reader(path)
    assert read.text.count(EVIL) == 3  # the title, the heading and a cell of the table
    assert not any("onerror" in attrs for _, attrs in read.tags)
    assert [tag for tag, attrs in read.tags].count("script") == 2
    assert "<b>&'\"</b>" in json.loads(read.data)["facts"]["id"]


def test_figures_have_their_size_and_say_what_they_show(tmp_path):
    read = Reader(page.write(tmp_path / "report", "A run", [section()]))
    ((_, image),) = [tag for tag in read.tags if tag[0] == "img"]
    assert (image["width"], image["height"], image["loading"], image["alt"]) == ("768", "518", "lazy", "How? So.")


def test_cells_are_as_people_read_them(tmp_path):
    words = Reader(page.write(tmp_path / "report", "A run", [section()])).words
    assert {"0.1235", "–", "12,345", "yes", "no"} <= {word.strip() for word in words}


def test_the_tiles_are_told_without_nan(tmp_path, tiles_section):
    read = Reader(page.write(tmp_path / "report", "A run", [tiles_section]))
    data = json.loads(read.data, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert None in data["facts"]["depth"]
    shown = tiles_section.parts[0]
    assert data["facts"]["id"] == shown.tiles["id"].tolist()
    assert data["facts"]["score"] == pytest.approx(shown.tiles["score"])
    told = [(data["facts"]["id"][tile], data["rules"][rule], *numbers) for tile, rule, *numbers in data["changes"]]
    true = shown.changes.assign(tile=shown.tiles["id"].iloc[shown.changes["tile"]].to_numpy())
    assert told == [tuple(row) for row in true.round(2).astype(object).to_numpy()]


def test_a_failure_leaves_the_earlier_report_as_it_was(tmp_path):
    table = Section("a", "A", [Table("some", "What?", pd.DataFrame({"a": [1]}))])
    path = page.write(tmp_path / "report", "first", [table])

    def broken():
        yield table
        raise RuntimeError

    with pytest.raises(RuntimeError):
        page.write(tmp_path / "report", "second", broken())
    assert "first" in path.read_text()
    (tmp_path / "report").rename(tmp_path / ".report.old")  # as a process leaves it that is killed in between
    with pytest.raises(RuntimeError):
        page.write(tmp_path / "report", "second", broken())
    assert "first" in path.read_text()
    page.write(tmp_path / "report", "third", [table])
    assert "third" in path.read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"report", ".report.lock"}


def test_a_file_in_its_place_is_refused_and_one_left_over_is_no_harm(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InputError, match="report is a file where the report's folder should be: move or delete it"):
        page.write(tmp_path / "report", "A run", [section()])
    assert (tmp_path / "report").read_text() == "mine"
    (tmp_path / "report").rename(tmp_path / "mine")
    (tmp_path / "report").mkdir()
    (tmp_path / ".report.old").write_text("left")
    assert page.write(tmp_path / "report", "A run", [section()]).exists()
    assert {file.name for file in tmp_path.iterdir()} == {"report", ".report.lock", "mine"}


def test_a_part_needs_a_name_of_its_own(tmp_path):
    with pytest.raises(ValueError, match="share a name"):
        page.write(tmp_path / "report", "A run", [section(), section()])
    assert not (tmp_path / "report").exists()


def test_files_are_called_after_their_part_whatever_it_is_called(tmp_path):
    figure, _ = chart("Title", "Steps", "Loss")
    path = page.write(tmp_path / "report", "A run", [Section("a", "A", [Plate("../a b#c%?.1-loss", "How?", figure)])])
    (link,) = [link for link in Reader(path).references() if link.endswith(".svg")]
    assert (path.parent / link).is_file()
    assert len(list((path.parent / "figures").iterdir())) == 2
