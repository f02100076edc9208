"""`bench report`, opened in a browser where there is one (Debian's chromium and chromium-driver)."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.heading import heading
from benchsuite.recipe.shelf import available
from benchsuite.report.page import write

FIXTURE = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update")  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two results files, one of them with a name that is HTML."""
    folder = tmp_path_factory.mktemp("results")
    content = json.loads(FIXTURE.read_text())
    (folder / "har-table1.mini.json").write_text(json.dumps(content))
    content["rows"][0]["label"] = "<script>document.title = 'taken'</script><img src=http://example.invalid/x>"
    content["rows"][1]["label"] = "detector+attention+fusion+distillation"
    content["data"]["name"] = "other & <b>bold</b>"
    (folder / "har-table1.mini.other.json").write_text(json.dumps(content))
    file = folder / "report.html"
    headings = [heading(recipe) for recipe in available().values()]
    assert write(folder, file, headings, Store(folder / "none")) == 2
    return file


def test_page_stands_alone_and_escapes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>document.title" not in text and "&lt;script&gt;document.title" in text
    assert "other &amp; &lt;b&gt;bold&lt;/b&gt;" in text
    assert "src=http" not in text.replace("&lt;img src=http", "") and "@import" not in text and "<link" not in text


def test_coverage_names_every_recipe(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(f">{recipe}</td>" in text for recipe in available())
    assert "4 of 5 rows on" in text
    assert text.count("har-net</td>") == 1 and "<td>1 of 5</td>" in text, "a line for each paper"


def test_losses_costs_and_departures(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    for key, needs, seconds in (("fit0", {}, 100), ("score0", {"predict": "fit0"}, 20)):
        with store.lock(key), store.scratch(key) as folder:
            if key == "fit0":
                lines = [{"iteration": step, "loss": 4.0 / step} for step in (1, 2, 4)]
                (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            job = {"label": f"job {key} seed 3", "job": {"seed": 3}}
            record = {**job, "inputs": needs, "seconds": seconds, "device": "cpu"}
            store.publish(key, folder, record)
    content = json.loads(FIXTURE.read_text())
    content["rows"][1]["keys"] = content["rows"][2]["keys"] = ["score0"]
    content["rows"][1]["deviations"] = ["half the <images>"]
    (tmp_path / "har-table1.mini.json").write_text(json.dumps(content))
    write(tmp_path, tmp_path / "page.html", [], store)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<path class="k1" d="M160.0,0.0 L320.0,100.0 L640.0,150.0">' in text and "seed 3: 1 after 4" in text
    assert "What it cost: 2:00 of jobs" in text and text.count("job fit0") == 1, "a job that rows share counts once"
    assert "half the &lt;images&gt;" in text


def test_many_seeds_stay_short(tmp_path: Path) -> None:
    """A row's trainings are one entry of the legend and one line of the costs, however many seeds there are."""
    store = Store(tmp_path / "store")
    store.prepare()
    for seed in range(8):
        with store.lock(f"fit{seed}"), store.scratch(f"fit{seed}") as folder:
            lines = [{"iteration": step, "loss": (seed + 1) / step} for step in (1, 2, 4)]
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            job = {"label": f"train seed {seed}", "job": {"seed": seed}}
            record = {**job, "inputs": {}, "seconds": 10, "device": "cpu"}
            store.publish(f"fit{seed}", folder, record)
    content = json.loads(FIXTURE.read_text())
    content["rows"][1]["keys"] = [f"fit{seed}" for seed in range(8)]
    (tmp_path / "har-table1.mini.json").write_text(json.dumps(content))
    write(tmp_path, tmp_path / "page.html", [], store)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count('<path class="k1"') == 8 and text.count(">●</span>") == 1
    assert "8 trainings: 0.25 to 2 after 4" in text
    assert '<td class="word">train</td>\n<td class="word">cpu</td><td>8</td><td>80.0</td><td>1:20</td>' in text


def test_two_runs_on_one_dataset_are_told_apart(tmp_path: Path) -> None:
    content = json.loads(FIXTURE.read_text())
    content["data"]["name"] = "cells val"
    for name in ("cells", "cells-long"):
        (tmp_path / f"har-table1.mini.{name}.json").write_text(json.dumps(content))
    write(tmp_path, tmp_path / "page.html", [], Store(tmp_path))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "mini tier on cells val</h2>" in text and "mini tier on cells val (cells-long)</h2>" in text


def test_nothing_to_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results files"):
        write(tmp_path, tmp_path / "page.html", [], Store(tmp_path))
    with pytest.raises(InputError, match=r"gone: is not a folder; --out names the folder .* -o FILE the page"):
        write(tmp_path / "gone", tmp_path / "page.html", [], Store(tmp_path))
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(InputError, match=r"torn\.json"):
        write(tmp_path, tmp_path / "page.html", [], Store(tmp_path))
    assert not (tmp_path / "page.html").exists()


# --- in a browser


@pytest.fixture(scope="module")
def asked(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The page's address on a server of its own, and every path that is asked of it."""
    paths: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            paths.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{page.name}", paths
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def first_cells(table: Any, column: int) -> list[str]:
    return [body.find_elements("css selector", "td")[column].text for body in table.find_elements("tag name", "tbody")]


def test_browser_sorts_and_asks_for_nothing(browser: Any, asked: tuple[str, list[str]]) -> None:
    address, paths = asked
    browser.get("about:blank")
    browser.get_log("performance")  # the browser's own first page asks for things of its own
    browser.get(address)
    assert browser.title == "benchsuite: published tables, measured"
    table = browser.find_element("css selector", "section:nth-of-type(2) table")
    head = table.find_elements("css selector", "thead th")
    before = first_cells(table, 2)
    assert before[2] == "–"
    head[2].find_element("tag name", "button").click()
    *numbers, last = first_cells(table, 2)
    falling = [float(text.split()[0]) for text in numbers]
    assert len(falling) == len(before) - 1 and last == "–", "what was not measured stands below"
    assert falling == sorted(falling, reverse=True) and head[2].get_attribute("aria-sort") == "descending"
    head[2].find_element("tag name", "button").click()
    *rising, last = first_cells(table, 2)
    assert [float(text.split()[0]) for text in rising] == sorted(falling) and last == "–"
    lines = table.find_elements("css selector", "tbody:first-of-type tr td:nth-child(2)")
    assert [line.text for line in lines][:2] == ["ours", "paper"], "a row's lines stay together"

    errors = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert errors == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "http://127.0.0.1"))} == set()
    assert set(paths) <= {"/report.html", "/favicon.ico"}


def test_printed_it_is_dark_on_white_and_whole(browser: Any, asked: tuple[str, list[str]]) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    browser.set_window_size(800, 1100)
    browser.get(asked[0])
    style = "return getComputedStyle(document.body)"
    assert browser.execute_script(f"{style}.backgroundColor") in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert browser.execute_script(f"{style}.color") == "rgb(0, 0, 0)"
    assert not browser.find_element("css selector", ".environment").is_displayed()
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "nothing is cut off at the paper's edge"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, asked: tuple[str, list[str]], width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
    browser.set_window_size(width, 900)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(asked[0])
    found = axe.Axe().run(browser)
    serious = [(each["id"], each["nodes"][0]["html"][:120]) for each in found["violations"]
               if each["impact"] in ("serious", "critical")]  # fmt: skip
    assert serious == []
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "tables scroll, the page does not"
    spilt = browser.execute_script(
        "return [...document.querySelectorAll('td')].filter(each => each.scrollWidth > each.clientWidth)"
        ".map(each => each.innerText)"
    )
    assert spilt == [], "no cell's text runs over its neighbour's"
