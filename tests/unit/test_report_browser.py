"""A run's page in a real browser: whole, silent, without the network, and with videos that play and sound.

The first time takes 70 MB from the npm registry (see tests/browser.py); where they cannot be had, this fails and says so.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from ray_s2v.reporting.report.page import write_report
from tests.browser import chromium
from tests.report_run import SCENES, make_run

DONE = 120
PLAY = """async video => {
    video.preload = 'auto';
    await video.play();
    while (video.currentTime < 0.3) await new Promise(later => setTimeout(later, 20));
    video.pause();
    return {
        length_s: video.duration, size: [video.videoWidth, video.videoHeight], at: video.readyState, muted: video.muted,
        sound: video.webkitAudioDecodedByteCount, picture: video.webkitVideoDecodedByteCount,
    };
}"""


class Opened:
    """A page, and all that it said and asked for on the way."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "faces", of=160, done=DONE)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_whole_and_silent_at_every_width(page: Page, run: Path, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    path = write_report(run)
    opened = Opened(page, path)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState >= 1)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert (opened.said, opened.asked) == ([], [path.as_uri()])
    assert page.evaluate("window.broken") is None
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) is (scheme == "dark")


def test_curves_have_a_size_and_their_lines_stay_in_them(page: Page, run: Path) -> None:
    Opened(page, write_report(run))
    names = page.eval_on_selector_all("svg[role=img]", "all => all.map(one => one.getAttribute('aria-label'))")
    assert len(names) == len(set(names)) == 10
    for picture in page.query_selector_all("svg[role=img]"):
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 110
        lines = picture.query_selector_all(".line path")
        assert lines
        for line in lines:
            inside = line.bounding_box()
            assert inside is not None
            assert inside["width"] > 0.75 * box["width"]
            assert box["x"] < inside["x"]
            assert inside["x"] + inside["width"] < box["x"] + box["width"]


def test_the_pointer_shows_the_values_of_a_step(page: Page, run: Path) -> None:
    Opened(page, write_report(run))
    curve = page.locator("svg[aria-label='Learning rate']")
    curve.scroll_into_view_if_needed()
    last = curve.locator(".spot").last
    assert not last.locator("text").is_visible()
    last.locator("rect").hover()
    assert last.locator("text").is_visible()
    assert last.locator("text").text_content().startswith(f"step {DONE}")  # type: ignore[union-attr]
    assert curve.locator(".spot text:visible").count() == 1


@pytest.mark.parametrize("most_embedded", [2**30, 0])
def test_videos_play_with_sound_from_the_page_and_from_beside_it(page: Page, run: Path, most_embedded: int) -> None:
    path = write_report(run, most_embedded)
    opened = Opened(page, path)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    videos = page.query_selector_all("video")
    assert len(videos) == 4 * (len(SCENES) + 1)
    for video in (videos[0], videos[-1]):
        played = video.evaluate(PLAY)
        assert played["length_s"] == pytest.approx(2.0, abs=0.1)
        assert played["size"] == [276, 160]
        assert played["at"] >= 3
        assert played["sound"] > 1000
        assert not played["muted"]
        assert played["picture"] > 1000
    assert opened.said == []
    beside = {url for url in opened.asked if url != path.as_uri()}
    assert len(beside) == (0 if most_embedded else 2)
    assert all(url.startswith(run.as_uri() + "/validation/") for url in beside)


def test_a_run_that_has_just_begun_fits_too(page: Page, tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").touch()
    path = write_report(tmp_path)
    page.set_viewport_size({"width": 400, "height": 900})
    opened = Opened(page, path)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("h1").is_visible()
    assert (opened.said, opened.asked) == ([], [path.as_uri()])
