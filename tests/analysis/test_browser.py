"""The report in a real browser: it sorts, filters, opens, changes its theme, and asks nobody for anything."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patronus_pl.analysis.report.report import explain
from tests.analysis.subjects import FEW, LITTLE, faces, tiny_model, with_ranges

webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser: pip install selenium")
ui = pytest.importorskip("selenium.webdriver.support.ui", reason="drives the browser: pip install selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no chromium and chromedriver on PATH: apt-get install chromium chromium-driver",
)
PROTOTYPES = 4


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    out, subject = tmp_path_factory.mktemp("report"), faces()
    explain(with_ranges(tiny_model(PROTOTYPES), subject), subject, str(out), effort=LITTLE, sampling=FEW)
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    profile: Path = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-component-update"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-sync")
    options.add_argument("--window-size=1280,900")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser: Any, address: str) -> Any:
    """The browser, with the report freshly loaded."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # forget what earlier pages asked and said
    browser.get(address)
    return browser


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def press(browser: Any, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def cards(browser: Any, of: str = ".proto") -> list[int]:
    script = "return [...document.querySelectorAll(arguments[0])].filter(c => !c.hidden).map(c => +c.dataset.index)"
    return list(browser.execute_script(script, of))


def column(browser: Any, i: int) -> list[str]:
    script = "return [...document.querySelector('table').tBodies[0].rows].map(r => r.cells[arguments[0]].dataset.value)"
    return list(browser.execute_script(script, i))


def test_it_asks_nobody_and_logs_no_error(shown: Any, address: str) -> None:
    sent = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert address in asked
    assert [url for url in asked if url != address and not url.startswith(("data:", "about:", "chrome:"))] == []
    assert shown.get_log("browser") == []


def test_every_picture_loads(shown: Any) -> None:
    widths = shown.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) > 5 * PROTOTYPES
    assert min(widths) > 0


def test_pixels_stay_pixels(shown: Any) -> None:
    style = "return getComputedStyle(document.images[0]).imageRendering"
    assert shown.execute_script(style) == "pixelated"
    size = shown.execute_script(
        "const i = document.images[0]; return [i.width / i.naturalWidth, i.height / i.naturalHeight]"
    )
    assert size == pytest.approx([6, 6], abs=0.01)  # 16 pixels shown as 96


def test_prototypes_sort_both_ways(shown: Any) -> None:
    assert sorted(cards(shown)) == list(range(PROTOTYPES))
    click(shown, "[data-key=index]")
    assert cards(shown) == list(range(PROTOTYPES))
    click(shown, "[data-key=index]")
    assert cards(shown) == list(range(PROTOTYPES))[::-1]
    click(shown, "[data-key=slope]")
    slopes = shown.execute_script("return [...document.querySelectorAll('.proto')].map(c => +c.dataset.slope)")
    assert slopes == sorted(slopes, reverse=True)
    assert len(set(slopes)) > 1


def test_attributes_sort_by_number_and_by_name(shown: Any) -> None:
    click(shown, "th:nth-child(6) button")
    values = [float(value) for value in column(shown, 5)]
    assert values == sorted(values, reverse=True)
    click(shown, "th:nth-child(1) button")
    click(shown, "th:nth-child(1) button")
    names = column(shown, 0)
    assert names == sorted(names, key=str.lower)
    assert shown.execute_script("return document.querySelector('th').ariaSort") == "ascending"


def test_a_link_opens_its_prototype(shown: Any) -> None:
    assert cards(shown, ".proto[open]") == []
    target = shown.execute_script("return document.querySelector('.switch a').hash")
    click(shown, ".switch a")
    ui.WebDriverWait(shown, 10).until(lambda driver: cards(driver, ".proto[open]"))
    assert cards(shown, ".proto[open]") == [int(target[2:])]
    assert shown.execute_script("return document.activeElement.closest('details').id") == target[1:]


def test_keys_walk_open_and_filter(shown: Any) -> None:
    order = cards(shown)
    focused = "return +document.activeElement.closest('details')?.dataset.index"
    press(shown, "j")
    assert shown.execute_script(focused) == order[0]
    press(shown, "j", "j", "k")
    assert shown.execute_script(focused) == order[1]
    press(shown, webdriver.Keys.ENTER)
    assert cards(shown, ".proto[open]") == [order[1]]
    press(shown, "/", "2")
    assert cards(shown) == [2]
    press(shown, webdriver.Keys.ESCAPE)
    assert cards(shown) == order


def test_all_open_and_close(shown: Any) -> None:
    click(shown, "#all")
    assert len(cards(shown, ".proto[open]")) == PROTOTYPES
    click(shown, "#all")
    assert cards(shown, ".proto[open]") == []


def test_the_theme_changes_and_is_remembered(shown: Any) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    before = shown.execute_script(paper)
    click(shown, "#theme")
    after = shown.execute_script(paper)
    assert after != before
    shown.refresh()
    assert shown.execute_script(paper) == after
    click(shown, "#theme")
    assert shown.execute_script(paper) == before


@pytest.mark.parametrize("width", [1280, 800, 500])
def test_nothing_sticks_out(shown: Any, width: int) -> None:
    shown.set_window_size(width, 900)
    click(shown, "#all")
    inside = "return [document.scrollingElement.scrollWidth, innerWidth]"
    needed, available = shown.execute_script(inside)
    shown.set_window_size(1280, 900)
    assert needed <= available
