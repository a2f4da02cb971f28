"""Whole sessions of a study in a real browser: keys, mouse and touch, reloads, tabs, a server that goes away."""

import contextlib
import json
import shutil
import time

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions import interaction
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here")
SECONDS = 0.4


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Chromium with one window of 1200x800 pixels, and no word of an error in the end."""
    screen(chromium, 1200, 800, 1)
    yield chromium
    assert not [entry for entry in chromium.get_log("browser")
                if entry["level"] == "SEVERE" and "ERR_CONNECTION_REFUSED" not in entry["message"]]


def screen(browser, width, height, ratio, touch=False):
    """Give the browser another screen."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": ratio, "mobile": touch})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch, "maxTouchPoints": 1})


def state(browser):
    return browser.execute_script("return document.querySelector('main')?.dataset.state")


def until(browser, *states):
    """Wait for one of the states of the page; None is that of pages without one."""
    end = time.monotonic() + 60
    while (now := state(browser)) not in states or browser.execute_script("return document.readyState") != "complete":
        assert time.monotonic() < end, f"{now} instead of {states}"
        time.sleep(0.02)
    return now


def shown(browser):
    """{side: [H, W, 4] of its canvas}."""
    sides = browser.execute_script("""return [...document.querySelectorAll("canvas")].map(c =>
        [c.id, c.height, c.width, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]])""")
    return {side: np.array(data).reshape(height, width, 4) for side, height, width, data in sides}


def begin(browser, url):
    """Through the first page to the first pair, by keys."""
    browser.get(url)
    browser.find_element(By.CSS_SELECTOR, "form button").send_keys(Keys.ENTER)
    until(browser, "ready")


def start(browser):
    browser.find_element(By.ID, "start").click()


def press(browser, key):
    ActionChains(browser).send_keys(key).perform()


def answered(store):
    return [t for t in store.trials() if t["chosen_side"]]


def check_all(store, means):
    """Every trial was answered once, by these means, after pictures were shown for as long as they should."""
    trials = store.trials()
    assert len(trials) == 6 and all(t["means"] == means for t in trials)
    # A frame or two early or late, and later on a machine that is busy.
    assert all(0.9 * 1000 * SECONDS <= t["viewed_ms"] <= 5000 for t in trials)
    assert np.median([t["viewed_ms"] for t in trials]) <= 1.5 * 1000 * SECONDS


def test_task_1_by_keys_with_a_reload(browser, make_study, serving):
    store, _ = make_study(task=1, view_seconds=SECONDS)
    with serving(store) as url:
        begin(browser, url)
        assert browser.find_element(By.CSS_SELECTOR, ".question").text == store.protocol["question"]
        press(browser, Keys.SPACE)  # the button has the focus
        for place in range(6):
            if place == 3:
                until(browser, "viewing", "asking")
                browser.refresh()
                until(browser, "ready")
                assert "3 of 6" in browser.find_element(By.ID, "note").text
                press(browser, Keys.ENTER)
            until(browser, "asking")
            assert browser.find_element(By.ID, "count").text == f"{place + 1} / 6"
            # A key that is held down repeats; it is not an answer.
            browser.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', "
                                   "{key: 'ArrowLeft', repeat: true}))")
            assert state(browser) == "asking" and len(answered(store)) == place
            press(browser, (Keys.ARROW_LEFT, Keys.ARROW_RIGHT)[place % 2])
            until(browser, "loading", "viewing", None)
        until(browser, None)
        assert browser.find_element(By.TAG_NAME, "h1").text == "Thank you"
        browser.refresh()
        assert browser.find_element(By.TAG_NAME, "h1").text == "Thank you"
    check_all(store, "key")
    assert [t["chosen_side"] for t in store.trials()] == ["left", "right"] * 3
    assert [t["handed_out"] > 1 for t in store.trials()] == [place == 3 for place in range(6)]


def test_task_2_by_mouse_with_double_clicks_and_a_second_tab(browser, make_study, serving):
    store, _ = make_study(task=2, view_seconds=SECONDS)
    with serving(store) as url:
        begin(browser, url)
        start(browser)
        first = browser.current_window_handle
        until(browser, "asking")
        browser.switch_to.new_window("tab")
        screen(browser, 1200, 800, 1)
        browser.get(store_page(store, url))
        until(browser, "ready")
        start(browser)
        until(browser, "asking")  # the same pair in both
        ActionChains(browser).double_click(browser.find_element(By.CSS_SELECTOR, "[value=left]")).perform()
        until(browser, "asking")
        assert len(answered(store)) == 1
        browser.close()
        browser.switch_to.window(first)
        browser.find_element(By.CSS_SELECTOR, "[value=right]").click()  # of what has been answered
        until(browser, "loading", "viewing")
        for place in range(1, 6):
            until(browser, "asking")
            assert len(answered(store)) == place
            # The place of a picture is a button too.
            ActionChains(browser).double_click(browser.find_elements(By.CLASS_NAME, "frame")[place % 2]).perform()
            until(browser, "loading", "viewing", None)
        until(browser, None)
    check_all(store, "mouse")
    assert [t["chosen_side"] for t in store.trials()] == ["left", "right"] * 3


def store_page(store, url):
    return f"{url}/r/{store._db.execute('SELECT code FROM rater').fetchone()[0]}"


def test_by_touch_on_a_phone(browser, make_study, serving):
    store, _ = make_study(task=1, view_seconds=SECONDS)
    screen(browser, 390, 844, 3, touch=True)

    def tap(element):
        finger = ActionBuilder(browser, mouse=PointerInput(interaction.POINTER_TOUCH, "finger"))
        finger.pointer_action.move_to(element).pointer_down().pointer_up()
        finger.perform()

    with serving(store) as url:
        begin(browser, url)
        assert "sideways" in browser.find_element(By.ID, "note").text
        tap(browser.find_element(By.ID, "start"))
        for place in range(6):
            until(browser, "asking")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
            if place % 2:
                tap(browser.find_element(By.CSS_SELECTOR, "[value=right]"))
            else:
                tap(browser.find_elements(By.CLASS_NAME, "frame")[0])
            until(browser, "loading", "viewing", None)
        until(browser, None)
    check_all(store, "touch")
    assert [t["chosen_side"] for t in store.trials()] == ["left", "right"] * 3
    # 366 CSS pixels, that is 1098, less the gaps, over three pictures of 16.
    assert {t["scale"] for t in store.trials()} == {20}


@pytest.mark.parametrize("ratio", [1, 1.25, 3])
def test_pixels_are_those_of_the_store_enlarged_by_a_whole_number_and_wiped(browser, make_study, serving, ratio):
    store, _ = make_study(task=1, view_seconds=2)
    pixels = store.pixels()
    screen(browser, 900, 700, ratio)
    with serving(store) as url:
        begin(browser, url)
        start(browser)
        until(browser, "viewing")
        pictures, token = shown(browser), store._db.execute("SELECT token FROM trial WHERE place = 0").fetchone()[0]
        image, sides = store.pair(token)
        for side, version in sides.items():
            assert np.array_equal(pictures[side][..., :3], pixels[image, version])
            assert (pictures[side][..., 3] == 255).all()
        source = browser.page_source
        assert not [name for name in store.protocol["images"] if name in source] and token not in source
        sizes = browser.execute_script("""return performance.getEntriesByType("resource").filter(r =>
            r.name.includes("/picture/")).map(r => [r.encodedBodySize, r.decodedBodySize, r.transferSize])""")
        assert len(sizes) == 3 and sizes[0][:2] == [12 * 16 * 3] * 2 and sizes == 3 * sizes[:1]
        assert browser.find_element(By.ID, "left").is_displayed()
        box = browser.execute_script("const r = document.getElementById('left').getBoundingClientRect();"
                                     "return [r.width / 16, r.height / 12].map(x => x * devicePixelRatio)")
        assert np.allclose(box, round(box[0]), atol=0.02) and box[0] > 1
        until(browser, "asking")
        assert all((picture == 0).all() for picture in shown(browser).values())
        assert not browser.find_element(By.ID, "left").is_displayed()
        press(browser, Keys.ARROW_LEFT)
        until(browser, "loading", "viewing")
    assert answered(store)[0]["scale"] == round(box[0])


def test_answers_wait_for_the_end_of_viewing_which_a_background_brings(browser, make_study, serving):
    store, _ = make_study(task=2, view_seconds=30)
    with serving(store) as url:
        begin(browser, url)
        start(browser)
        until(browser, "viewing")
        press(browser, Keys.ARROW_LEFT)
        browser.find_elements(By.CLASS_NAME, "frame")[0].click()
        assert state(browser) == "viewing" and not answered(store)
        browser.execute_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
                               "document.dispatchEvent(new Event('visibilitychange')); delete document.hidden")
        assert state(browser) == "asking"
        press(browser, Keys.ARROW_LEFT)
        until(browser, "loading", "viewing")
    assert answered(store)[0]["viewed_ms"] < 25_000


def test_a_window_that_is_too_small_waits_for_a_larger_one(browser, make_study, serving):
    store, _ = make_study(task=1, view_seconds=SECONDS)
    with serving(store) as url:
        begin(browser, url)
        screen(browser, 300, 120, 1)  # no room for anything under the question
        start(browser)
        until(browser, "small")
        time.sleep(2 * SECONDS)
        assert state(browser) == "small"
        screen(browser, 900, 700, 1)
        until(browser, "asking")


def test_a_server_that_goes_away_and_comes_back(browser, make_study, serving):
    store, _ = make_study(task=2, view_seconds=SECONDS)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(store))
        begin(browser, url)
        start(browser)
        until(browser, "asking")
        stack.close()
        press(browser, Keys.ARROW_RIGHT)
        until(browser, "lost")
        with serving(store, int(url.rsplit(":", 1)[1])):
            until(browser, "asking")
            assert [t["chosen_side"] for t in answered(store)] == ["right"]
            assert json.loads(browser.find_element(By.TAG_NAME, "main").get_attribute("data-facts"))["of"] == 6
