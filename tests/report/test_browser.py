"""The page in a real browser: what a person presses, picks and links does what it says. Skipped without a Chromium."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

from kit.data import demo, tiles
from kit.data.tiles import Tiles
from kit.report import changes, gallery, page, summary_section
from kit.report.figures.style import ORANGE, PURPLE, chart
from kit.report.plates import Gallery, Plate, Section
from tests.report.planted import planted_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")]
MARKUP = "<b>bold</b>"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = [*QUIET, "--no-sandbox", "--no-first-run"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield started
        started.close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Tiles:
    path = tmp_path_factory.mktemp("data")
    demo.write(path / "demo", n_train=120, n_test=10, seed=0)
    loaded = tiles.load(path / "demo")
    names = loaded.train_ids.astype("U20")
    names[5] = MARKUP
    return replace(loaded, train_ids=names)


@pytest.fixture(scope="module")
def shown(tmp_path_factory, loaded) -> tuple[Path, Gallery]:
    """The page of a run with a long name, and its gallery."""
    run = planted_run(tmp_path_factory.mktemp("runs") / ("a-long-name-" * 8), loaded)
    figure, axes = chart("A figure", "Steps", "Loss")
    axes.plot([1, 2])
    curve = Section("training", "Training", [Plate("curve", "How did the loss fall?", figure)])
    section = gallery.of_run(run, loaded, changes.judge(run, loaded, None))
    path = page.write(run / "report", run.name, [summary_section.section([run]), section, curve])
    return path, section.parts[0]


@pytest.fixture
def tab(browser, shown):
    """A page of which nothing may be asked outside its folder, nor anything be complained about."""
    context, trouble = browser.new_context(viewport={"width": 1280, "height": 900}), []
    tab, folder = context.new_page(), shown[0].parent.as_uri()
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("requestfailed", lambda request: trouble.append(request.url))
    tab.on("request", lambda request: request.url.startswith((folder, "data:")) or trouble.append(request.url))
    tab.goto(shown[0].as_uri())
    yield tab
    context.close()
    assert trouble == []


def ids(tab) -> list[str]:
    return tab.eval_on_selector_all(
        "#tiles .tile", "tiles => tiles.map(tile => tile.getAttribute('aria-label').split(',')[0])"
    )


def count(tab) -> str:
    return tab.inner_text("#count")


def pick(tab, name: str, value: str) -> None:
    tab.select_option(f"select[name={name}]", value)
    tab.wait_for_function("value => location.hash.includes(value)", arg=f"{name}={value}")


def test_every_tile_is_there_the_worst_first_and_markup_is_text(tab, shown):
    assert ids(tab) == shown[1].tiles["id"].tolist()
    assert count(tab) == f"120 of 120 tiles, mean score {shown[1].tiles['score'].mean():.4f}"
    assert MARKUP in ids(tab)
    assert tab.locator("b").count() == 0
    tab.goto(shown[0].as_uri() + "#tiles?tile=" + MARKUP)
    tab.wait_for_selector("#viewer[open]")
    assert tab.inner_text("#viewer-title").startswith(MARKUP)


@pytest.mark.parametrize("by", ["score", "coverage", "uncertainty", "id"])
@pytest.mark.parametrize("descending", [False, True])
def test_sorting(tab, shown, by, descending):
    pick(tab, "kind", "salt")
    value = f"-{by}" if descending else by
    if value != "score":  # the order at the start
        pick(tab, "sort", value)
    table = shown[1].tiles[shown[1].tiles["kind"] != "empty"]
    digits = {"coverage": 6, "uncertainty": 4}.get(by, 10)  # as told to the page
    keys = table[by].round(digits) if by != "id" else table[by]
    assert ids(tab) == table.loc[keys.sort_values(ascending=not descending, kind="stable").index, "id"].tolist()


@pytest.mark.parametrize("name", ["kind", "class", "fold"])
def test_filters(tab, shown, name):
    for value in shown[1].tiles[name].unique():
        pick(tab, name, str(value))
        expected = shown[1].tiles[shown[1].tiles[name] == value]
        assert ids(tab) == expected["id"].tolist()
        assert count(tab) == f"{len(expected)} of 120 tiles, mean score {expected['score'].mean():.4f}"
    tab.select_option(f"select[name={name}]", "all")
    tab.wait_for_function("document.querySelectorAll('#tiles .tile').length === 120")


def test_the_worst_fifty_and_what_a_rule_changed(tab, shown):
    pick(tab, "show", "worst")
    assert ids(tab) == shown[1].tiles["id"].tolist()[:50]
    pick(tab, "fold", "1")  # of the fold the worst fifty
    assert ids(tab) == shown[1].tiles["id"][shown[1].tiles["fold"] == 1].tolist()[:50]
    tab.select_option("select[name=fold]", "all")
    for number, rule in enumerate(shown[1].changes["rule"].cat.categories):
        pick(tab, "show", f"rule-{number}")
        changed = shown[1].changes["tile"][shown[1].changes["rule"] == rule]
        assert sorted(ids(tab)) == sorted(shown[1].tiles["id"].iloc[changed])
    pick(tab, "show", "rule-1")
    tile = ids(tab)[0]
    tab.locator(".tile").first.click()
    own = shown[1].changes[shown[1].tiles["id"].iloc[shown[1].changes["tile"]].to_numpy() == tile]
    told = tab.inner_text("#changes")
    assert all(f"Changed by {r.rule}: score {r.before:.2f} to {r.after:.2f}" in told for r in own.itertuples())


def coloured(panel, colour: str) -> np.ndarray:
    """Where a panel of the enlarged view has a colour, (101, 101) bool."""
    with Image.open(io.BytesIO(panel.screenshot())) as picture:
        seen = np.asarray(picture.convert("RGB").resize((101, 101), Image.Resampling.NEAREST)).astype(int)
    return np.abs(seen - ImageColor.getrgb(colour)).max(axis=2) < 30


def test_a_changed_tile_shows_its_mask_before_beside_the_one_after(tab, shown, loaded):
    ours = shown[1].tiles["id"].tolist().index(loaded.train_ids[1])  # it has an island of 9 pixels
    rule = shown[1].changes["rule"].cat.categories.tolist().index("components under 20 pixels")
    tab.set_viewport_size({"width": 1280, "height": 1600})  # nothing lies under the title that stays in sight
    tab.goto(shown[0].as_uri() + "#tiles?" + urlencode({"show": f"rule-{rule}", "tile": loaded.train_ids[1]}))
    tab.wait_for_selector("#viewer[open]")
    assert tab.locator("#changes section").count() == (shown[1].changes["tile"] == ours).sum() == 1
    before, after, changed = tab.locator("#changes .art").all()
    fewer = 9 + loaded.masks[1].sum()  # which is as small
    assert f"pixels of salt: 0 more, {fewer} fewer" in tab.inner_text("#changes")
    assert coloured(changed, PURPLE)[:3, :3].any()
    assert not coloured(changed, PURPLE)[5:90].any()
    before, after = (coloured(panel, ORANGE) for panel in (before, after))
    assert before[:3, :3].any()
    assert not after[:3, :3].any()
    assert (before != after)[5:].mean() < 0.02  # the same but for the screen's own pixels
    captions = tab.locator("#changes figcaption").all_inner_texts()
    empty = "" if shown[1].layers["mask"][ours].any() else ": empty"
    assert [caption.split("truth, ")[-1].strip() for caption in captions] == [
        "mask before", f"mask after{empty}", "changed"
    ]  # fmt: skip


def focused(tab) -> str:
    return tab.evaluate("document.activeElement.getAttribute('aria-label')?.split(',')[0] ?? ''")


def test_keys_in_the_grid_and_in_the_enlarged_view(tab, shown):
    names = shown[1].tiles["id"].tolist()
    tab.locator("#tiles").scroll_into_view_if_needed()
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]") == names[1]
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#viewer[open]")
    assert tab.inner_text("#viewer-title") == f"{names[1]} (2 of 120)"
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("name => document.getElementById('viewer-title').textContent.startsWith(name)", arg=names[2])
    tab.keyboard.press("k")
    tab.keyboard.press("k")
    tab.wait_for_function("name => document.getElementById('viewer-title').textContent.startsWith(name)", arg=names[0])
    assert tab.is_disabled("#previous")
    tab.keyboard.press("k")  # there is none before the first
    tab.keyboard.press("Escape")
    tab.wait_for_function("!location.hash.includes('tile=')")
    assert not tab.is_visible("#viewer")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]") == names[0]
    tab.keyboard.press("?")
    assert "next tile" in tab.inner_text("#help")
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#help")


def test_the_enlarged_view_closes_also_before_the_browser_tells_of_the_last_step(tab, shown):
    names = shown[1].tiles["id"].tolist()
    tab.locator(".tile").first.click()
    tab.wait_for_selector("#viewer[open]")
    tab.keyboard.press("j")
    tab.wait_for_function("name => location.hash.includes(name)", arg=names[1])
    tab.evaluate("""() => {
        document.getElementById("viewer").close();
        window.dispatchEvent(new HashChangeEvent("hashchange"));
    }""")
    tab.wait_for_function("!location.hash.includes('tile=')")
    assert not tab.is_visible("#viewer")
    assert focused(tab) == names[1]


def test_keys_are_left_to_the_page_where_the_tiles_are_not_meant(tab, shown):
    keys = ("j", "ArrowRight", "t", "?")

    def nothing_happens() -> bool:
        before = focused(tab), tab.url
        for key in keys:
            tab.keyboard.press(key)
        return (focused(tab), tab.url) == before and not tab.is_visible("#help")

    tab.set_viewport_size({"width": 1280, "height": 300})
    tab.evaluate("window.scrollTo(0, 0)")
    assert nothing_happens()  # the tiles are out of sight
    tab.set_viewport_size({"width": 1280, "height": 4000})
    for elsewhere in (".scroll", ".plate a"):
        tab.locator(elsewhere).first.focus()
        assert nothing_happens()
    tab.locator(".tile").first.focus()
    assert not nothing_happens()
    tab.keyboard.press("Escape")
    tab.keyboard.press("?")
    before = focused(tab), tab.url
    for key in ("j", "t", "p", "ArrowRight"):
        tab.keyboard.press(key)
    assert (focused(tab), tab.url) == before
    tab.keyboard.press("?")
    assert not tab.is_visible("#help")


def test_layers_by_key_box_and_hover(tab):
    art = tab.locator(".tile").nth(3).locator(".art")
    art.scroll_into_view_if_needed()
    seen = lambda: {name for name in ("image", "truth", "probability", "mask") if art.locator(f".{name}").is_visible()}  # noqa: E731
    tab.wait_for_selector(".art .image")
    assert seen() == {"image", "truth", "mask"}
    tab.keyboard.press("t")
    tab.wait_for_function("location.hash.includes('layers=')")
    assert seen() == {"image", "mask"}
    tab.keyboard.press("p")
    tab.keyboard.press("p")  # faster than the hash's events
    tab.wait_for_function("location.hash.includes('layers=mask')")
    tab.check("#layers input[name=probability]")
    tab.wait_for_function("location.hash.includes('layers=probability+mask')")
    assert seen() == {"image", "probability", "mask"}
    assert not tab.is_checked("#layers input[name=truth]")
    art.hover()
    assert seen() == {"image", "truth", "probability", "mask"}


def test_a_finger_chooses_layers_in_the_enlarged_view(tab):
    tab.locator(".tile").nth(1).click()
    tab.uncheck("#viewer #layers input[name=truth]")
    tab.wait_for_function("location.hash.includes('layers=mask')")
    assert not tab.locator("#panels .art").first.locator(".truth").is_visible()
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#tools #layers")


def test_back_undoes_a_choice(tab):
    everything = ids(tab)
    pick(tab, "kind", "large")
    pick(tab, "sort", "-uncertainty")
    assert ids(tab) != everything
    tab.go_back()
    tab.wait_for_function("!location.hash.includes('sort=')")
    assert tab.input_value("select[name=kind]") == "large"
    tab.go_back()
    tab.wait_for_function("location.hash === ''")
    assert (tab.input_value("select[name=kind]"), ids(tab)) == ("all", everything)


def test_back_to_a_section_shows_the_tiles_as_they_were(tab):
    pick(tab, "kind", "large")
    large = ids(tab)
    tab.click("nav a:has-text('Training')")
    pick(tab, "kind", "empty")
    assert ids(tab) != large
    tab.go_back()
    tab.wait_for_function("location.hash === '#training'")
    tab.wait_for_function("document.querySelector('select[name=kind]').value === 'large'")
    assert ids(tab) == large


def test_so_it_is_when_the_choice_comes_before_the_browser_tells_of_the_link(tab):
    pick(tab, "kind", "large")
    tab.evaluate("""() => {
        location.hash = "#training";
        const kind = document.querySelector("select[name=kind]");
        kind.value = "empty";
        kind.dispatchEvent(new Event("change", { bubbles: true }));
    }""")
    tab.wait_for_function("location.hash.includes('kind=empty')")
    tab.go_back()
    tab.wait_for_function("location.hash === '#training'")
    tab.wait_for_function("document.querySelector('select[name=kind]').value === 'large'")


def test_a_click_beside_the_enlarged_tile_closes_it(tab):
    tab.locator(".tile").nth(2).click()
    tab.wait_for_selector("#viewer[open]")
    box = tab.locator("#viewer").bounding_box()
    tab.mouse.click(box["x"] + 4, box["y"] + 4)  # its own margin
    assert tab.is_visible("#viewer")
    tab.mouse.click(5, 5)
    tab.wait_for_function("!location.hash.includes('tile=')")
    assert not tab.is_visible("#viewer")


def test_a_link_restores_what_was_seen(tab, browser, shown):
    pick(tab, "kind", "large")
    pick(tab, "sort", "-uncertainty")
    tab.keyboard.press("t")
    tab.wait_for_function("location.hash.includes('layers=')")
    tab.locator(".tile").nth(2).click()
    tab.wait_for_selector("#viewer[open]")
    other = browser.new_page()
    other.goto(tab.url)
    other.wait_for_selector("#viewer[open]")
    assert other.inner_text("#viewer-title") == tab.inner_text("#viewer-title")
    assert ids(other) == ids(tab) != shown[1].tiles["id"].tolist()
    assert other.input_value("select[name=sort]") == "-uncertainty"
    assert other.is_checked("#layers input[name=mask]")
    assert not other.is_checked("#layers input[name=truth]")
    other.close()
    tab.go_back()  # to before the tile was opened
    tab.wait_for_selector("#viewer", state="hidden")
    tab.goto(shown[0].as_uri() + "#tiles?kind=absurd&sort=__proto__&show=rule-99&tile=none&constructor=1")
    tab.wait_for_function("document.querySelectorAll('#tiles .tile').length === 120")


def test_a_link_to_a_tile_has_its_address(tab):
    href = tab.locator(".tile").nth(4).get_attribute("href")
    assert href.startswith("#tiles?tile=")
    tab.click("nav a:has-text('Training')")
    assert tab.url.endswith("#training")
    assert tab.locator("#training").bounding_box()["y"] < 900  # of 900 pixels; the page ends with it


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_runs_off_a_small_screen(tab, width):
    tab.set_viewport_size({"width": width, "height": 800})
    wide = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert max(tab.evaluate(wide)) <= width
    tab.locator(".tile").first.click()
    box = tab.locator("#viewer").bounding_box()
    assert (box["x"] >= 0, box["x"] + box["width"] <= width) == (True, True)
    for panel in tab.locator("#panels .art").all():
        assert panel.bounding_box()["width"] > 100


def test_in_the_dark_the_page_is_dark_and_figures_stay_on_white(tab):
    def brightness(selector: str, what: str) -> float:
        colour = tab.eval_on_selector(selector, f"element => getComputedStyle(element).{what}")
        return float(np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]))

    assert brightness("body", "backgroundColor") > 200 > 60 > brightness("body", "color")
    tab.emulate_media(color_scheme="dark")
    assert brightness("body", "backgroundColor") < 60 < 200 < brightness("body", "color")
    assert brightness(".plate a", "backgroundColor") == 255
    sheet, picture = (tab.locator(f".plate {what}").first.bounding_box()["width"] for what in ("a", "img"))
    assert sheet == pytest.approx(picture, abs=1)  # no white beside it


def test_figures_keep_their_size_on_a_phone_and_scroll(tab):
    tab.set_viewport_size({"width": 390, "height": 800})
    picture, sheet = tab.locator(".plate img").first, tab.locator(".plate a").first
    assert picture.bounding_box()["width"] == pytest.approx(0.85 * int(picture.get_attribute("width")), abs=1)
    assert sheet.bounding_box()["width"] <= 390 - 2 * 16
    assert sheet.evaluate("sheet => sheet.scrollWidth > sheet.clientWidth")


def test_thousands_of_tiles_open_at_once_and_load_as_they_are_scrolled_to(browser, tmp_path, loaded, record_property):
    rows = np.arange(4000) % 120
    names = np.array([f"{number:010x}" for number in range(4000)])
    table = gallery.facts(loaded, rows).assign(id=names, fold=0, score=np.linspace(0, 1, 4000))
    unchanged = pd.DataFrame(columns=gallery.COLUMNS).astype({"rule": "category"})
    stacks = {"image": loaded.train_images[rows], "truth": loaded.masks[rows], "mask": loaded.masks[rows]}
    stacks["probability"] = (stacks["truth"] * 0.8).astype(np.float16)
    section = Section("gallery", "Tiles", [Gallery("tiles", "Which?", table, stacks, unchanged, {})])
    path = page.write(tmp_path / "report", "many", [section])
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    tab.goto(path.as_uri())
    tab.wait_for_function("document.querySelector('.art .image')")
    ready = "performance.timing.loadEventEnd - performance.timing.navigationStart"
    record_property("opened, ms", tab.evaluate(ready))
    print(f"4,000 tiles opened in {tab.evaluate(ready)} ms, {path.stat().st_size / 1e6:.2f} MB of HTML")
    tab.wait_for_timeout(300)
    assert tab.evaluate(ready) < 20_000
    assert {"image_000.jpg", "truth_000.png"} <= set(asked)
    assert len(asked) < 10
    with tab.expect_request("**/image_039.jpg"):
        tab.evaluate("document.getElementById('tiles').scrollTop = 1e9")
    tab.close()
