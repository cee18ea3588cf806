"""The MLflow UI in a real browser: a newcomer finds the tree, a run, its artifacts, curves and the registry.

Debian's Chromium, headless; nothing is downloaded. Run by `make test-browser`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Chain
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rewindctl.registry.ui import front_page as front
from rewindctl.registry.ui import views

pytestmark = [pytest.mark.slow, pytest.mark.browser]

START_SECONDS = 120
PATIENCE_SECONDS = 40
# What MLflow's own pages complain of, on any store.
MLFLOWS_OWN = ("users/current", "path=MLmodel", "ResizeObserver loop")
INSTALL = "install it: apt-get install chromium chromium-driver"
RUN_ROWS = ".ag-pinned-left-cols-container .ag-row"
# Of each chart with curves: the names of its curves, and their iterations.
CURVES = """return [...document.querySelectorAll('.js-plotly-plot')].map(plot => (plot.data || [])
  .filter(curve => curve.x && curve.x.length > 1).map(curve => [String(curve.name), [...curve.x].map(Number)]))"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(chain: Chain) -> Iterator[str]:
    """`rewindctl ui` on the store of the chain, answering."""
    assert front.installed(), "this installation is of an earlier version: pip install -e ."
    port = free_port()
    line = [sys.executable, "-m", "rewindctl", "ui", "--port", str(port), "--tracking-uri", chain.uri, "--quiet"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, "the UI ended"
            assert time.monotonic() < deadline, "the UI did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the group that was started above
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in paths.items() if path is None]
    assert not missing, f"no {' and no '.join(missing)} here; {INSTALL}"
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1600,1140")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


class Browser:
    """A person at the UI: opens, looks for a text or an element until it is there, clicks."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, page: str) -> None:
        self.driver.get("about:blank")  # else a change after the # alone loads nothing
        self.driver.get(self.address + page)

    def wait(self, found: Callable[[], Any], what: str) -> Any:
        """What `found` gives, once it gives something."""
        waiting = WebDriverWait(self.driver, PATIENCE_SECONDS, 0.2, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: found(), f"no {what} on {self.driver.current_url}")

    def text(self, words: str) -> None:
        self.wait(lambda: words in self.driver.find_element(By.TAG_NAME, "body").text, repr(words))

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def heading(self, words: str) -> None:
        self.wait(lambda: any(words in element.text for element in self.all("h1, h2, h3")), f"heading {words!r}")

    def click(self, xpath: str) -> None:
        def clicked() -> bool:
            element = self.driver.find_element(By.XPATH, xpath)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(clicked, xpath)

    def click_link(self, words: str) -> None:
        self.click(f"//a[normalize-space()='{words}']")


@pytest.fixture
def browser(chromium: webdriver.Chrome, address: str) -> Iterator[Browser]:
    """At the end, the pages must not have complained of anything but what MLflow's own always do."""
    chromium.get_log("browser")
    yield Browser(chromium, address)
    messages = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in messages if not any(known in message for known in MLFLOWS_OWN)] == []


def rows(browser: Browser) -> list[str]:
    """The names of the runs that the table shows, from top to bottom."""
    shown = sorted(browser.all(RUN_ROWS), key=lambda row: int(row.get_attribute("row-index")))
    return [row.find_element(By.CSS_SELECTOR, "a").text for row in shown]


def expand(browser: Browser, name: str) -> None:
    browser.click(f"//a[normalize-space()='{name}']/ancestor::div[@role='row']//button")


def test_the_bare_address_opens_the_tree_of_runs(browser: Browser) -> None:
    browser.open("")
    browser.heading("Runs")
    browser.wait(lambda: rows(browser) == ["dense s0 resnet8-digits"], "dense run alone")
    for column in ("test_accuracy", "delta_accuracy", "compression", "rewindctl.method"):
        browser.text(column)
    assert "Model training" in browser.driver.find_element(By.TAG_NAME, "body").text
    expand(browser, "dense s0 resnet8-digits")
    browser.wait(lambda: rows(browser)[1:] == ["prune 5x s0 resnet8-digits"], "prune run below it")
    expand(browser, "prune 5x s0 resnet8-digits")
    names = [f"{method} 5x s0 resnet8-digits" for method in ("lr_rewind", "weight_rewind k=6", "finetune")]
    browser.wait(lambda: sorted(rows(browser)[2:]) == sorted(names), "retrain runs below that")


def test_the_experiment_says_how_to_read_it(browser: Browser) -> None:
    browser.open("#/experiments/1/runs")
    browser.text("opens what was made from it")
    browser.click("//button[contains(., 'Views')]")
    for name in ("1 results", "2 curves", "3 methods"):
        browser.text(name)


def test_a_run_says_what_it_is_where_it_comes_from_and_how_to_make_it(browser: Browser, chain: Chain) -> None:
    browser.open(f"#/runs/{chain.lr_rewind}")
    browser.heading("lr_rewind 5x s0 resnet8-digits")
    for words in (
        "Retraining with lr_rewind and the mask of",
        f"rewindctl retrain --parent {chain.prune} --method lr_rewind",
        "digits-training",
        "rewindctl.method",
        "Parent run",
        "Logged models (2)",  # the baseline's that it is made from, and its own
    ):
        browser.text(words)
    # A link of the description opens in a new tab, that of the run's facts here.
    (described,) = browser.all(f"a[target=_blank][href='#/runs/{chain.prune}']")
    assert described.text == "prune 5x s0 resnet8-digits"
    browser.click("//a[not(@target)][normalize-space()='prune 5x s0 resnet8-digits']")
    browser.heading("prune 5x s0 resnet8-digits")
    browser.open(f"#/runs/{chain.prune}")
    browser.heading("prune 5x s0 resnet8-digits")


def test_what_a_process_used_has_its_own_page(browser: Browser, chain: Chain) -> None:
    browser.open(f"#/experiments/1/runs/{chain.dense}/system-metrics")
    browser.text("process_memory_megabytes")


def test_the_table_of_a_mask_shows(browser: Browser, chain: Chain) -> None:
    browser.open(f"#/experiments/1/runs/{chain.prune}/artifacts/mask/layers.csv")
    browser.text("blocks.2.conv1.weight")
    browser.text("16x1x3x3")


def test_the_plot_of_a_mask_shows(browser: Browser, chain: Chain) -> None:
    browser.open(f"#/experiments/1/runs/{chain.prune}/artifacts/plots/density.png")
    width = "return Math.max(0, ...[...document.images].map(image => image.naturalWidth))"
    browser.wait(lambda: browser.driver.execute_script(width) >= 600, "picture")


def test_curves_of_all_methods_share_a_chart(browser: Browser) -> None:
    browser.open(views.link("1", views.CURVES, charts=True))
    browser.text("Accuracy by iteration")

    def overlaid() -> bool:
        charts = browser.driver.execute_script(CURVES)
        names = [{name.split(" 5x")[0] for name, x in chart if x[0] == 0} for chart in charts]
        return {"finetune", "lr_rewind", "weight_rewind k=6"} in names

    browser.wait(overlaid, "chart with a curve for each method")


def test_two_runs_are_compared_by_iteration(browser: Browser, chain: Chain) -> None:
    browser.open(f'#/compare-runs?runs=["{chain.finetune}","{chain.lr_rewind}"]&experiments=["1"]')
    browser.text("Comparing 2 Runs")
    for name in ("finetune 5x s0 resnet8-digits", "lr_rewind 5x s0 resnet8-digits"):
        browser.text(name)
    browser.click("//a[contains(@href, 'metric=%22test_accuracy%22')]")

    def both() -> bool:
        charts = browser.driver.execute_script(CURVES)
        return any(
            {name.split(" 5x")[0] for name, x in chart if x == [0, 12, 24]} == {"finetune", "lr_rewind"}
            for chart in charts
        )

    browser.wait(both, "chart with two curves over the iterations")


def test_a_registered_baseline_leads_to_its_run(browser: Browser) -> None:
    browser.open("#/models")
    browser.click_link("resnet8-digits-dense")
    browser.text("stands for its run wherever a command takes one")
    browser.text("seed-0")
    browser.click_link("Version 1")
    browser.text("77,072 of them kernels")
    browser.click_link("dense s0 resnet8-digits")
    browser.heading("dense s0 resnet8-digits")
