"""The page at /, in a real browser without a network: typed into, sent, read."""

import asyncio
import os
import re
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from q8bert.runtime import Classifier

pytest.importorskip("aiohttp")
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

TEXT = "a great film"
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def served(ourselves: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    with ourselves.start(bundles) as running:
        yield running


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, timeout=180))


def keep(picture: Path) -> None:
    """Copy a picture to where somebody wants to look at it."""
    if folder := os.environ.get("Q8BERT_SCREENSHOTS"):
        shutil.copy(picture, folder)


async def shown(page: Any, element: str) -> bool:
    return bool(await page.value(f"!document.getElementById('{element}').closest('[hidden]')"))


async def text_of(page: Any, element: str) -> str:
    return str(await page.value(f"document.getElementById('{element}').textContent"))


def test_a_text_gets_its_label_with_bars_time_and_card(
    browser: ModuleType, served: Any, library: dict[str, Classifier], tmp_path: Path
) -> None:
    async def look() -> None:
        async with browser.page(browser.executable(), tmp_path / "profile", f"http://{served.url}/") as page:
            await page.until("!document.getElementById('about').textContent.startsWith('Looking')")
            assert "SST-2, computed in int8, up to 32 tokens" in await text_of(page, "about")
            assert await page.value("document.activeElement.id") == "text", "typing can begin at once"
            await page.type(TEXT)
            await page.press("Enter", with_control=True)
            await page.until("!document.getElementById('result').hidden")
            expected = library["sentiment"]([TEXT])[0]
            assert await text_of(page, "label") == expected.label
            assert re.fullmatch(r"label, answered in \d+\.\d ms", await text_of(page, "time"))
            bars = await page.value("[...document.querySelectorAll('#bars li')].map((one) => one.textContent)")
            ranked = sorted((expected.probabilities or {}).items(), key=lambda one: -one[1])
            assert bars == [f"{name}{100 * share:.2f} %" for name, share in ranked]
            widths = await page.value(
                "[...document.querySelectorAll('#bars .fill')].map((one) => one.getBoundingClientRect().width / one.parentElement.getBoundingClientRect().width)"
            )
            assert widths == pytest.approx([share for _, share in ranked], abs=0.01)
            await page.value("document.querySelector('summary').click()")
            assert "SST-2 classifier, INT8" in await text_of(page, "card")
            assert await page.value("document.querySelectorAll('#card table td').length") >= 2
            assert (await page.picture(tmp_path / "light.png")).startswith(b"\x89PNG")
            keep(tmp_path / "light.png")
            assert all(address.startswith((f"http://{served.url}/", "data:")) for address in page.requested), (
                page.requested
            )
            assert page.said == []

    run(look())


def test_a_pair_gets_its_score_and_a_cut_text_is_told(
    browser: ModuleType, served: Any, library: dict[str, Classifier], tmp_path: Path
) -> None:
    async def look() -> None:
        url = f"http://{served.url}/?model=similarity"
        async with browser.page(browser.executable(), tmp_path / "profile", url, dark=True, width=420) as page:
            await page.until("!document.getElementById('about').textContent.startsWith('Looking')")
            assert await shown(page, "pair-field")
            await page.type("a good film " * 20)
            await page.press("Tab")
            await page.type("a great film")
            await page.press("Tab")
            await page.press("Enter")  # the button
            await page.until("!document.getElementById('result').hidden")
            expected = library["similarity"]([("a good film " * 20, "a great film")])[0]
            assert await text_of(page, "label") == f"{expected.score:.3f}"
            assert await shown(page, "note")
            assert not await shown(page, "bars")
            assert await page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
            await page.picture(tmp_path / "dark.png")
            keep(tmp_path / "dark.png")
            assert page.said == []

    run(look())


def test_every_control_has_a_name_for_those_who_do_not_see_it(browser: ModuleType, served: Any, tmp_path: Path) -> None:
    async def look() -> None:
        async with browser.page(
            browser.executable(), tmp_path / "profile", f"http://{served.url}/?model=similarity"
        ) as page:
            await page.until("!document.getElementById('about').textContent.startsWith('Looking')")
            tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if "role" in node}
            assert {
                ("textbox", "First text"),
                ("textbox", "Second text"),
                ("button", "Score"),
                ("combobox", "Model"),
            } <= named
            assert {("heading", "Try the model"), ("main", "")} <= named
            assert await page.value("document.documentElement.lang") == "en"

    run(look())


def test_a_token_is_asked_for_and_an_error_is_shown(
    browser: ModuleType, ourselves: ModuleType, bundles: dict[str, Path], tmp_path: Path
) -> None:
    async def look(url: str) -> None:
        async with browser.page(browser.executable(), tmp_path / "profile", f"http://{url}/") as page:
            await page.until("!document.getElementById('error').hidden")
            assert "wants a token" in await text_of(page, "error")
            await page.value("document.getElementById('token').focus()")
            await page.type(TOKEN)
            await page.press("Tab")
            await page.until("document.getElementById('about').textContent.includes('SST-2')")
            await page.value("document.getElementById('text').focus()")
            await page.type("x" * 60)
            await page.value("document.getElementById('send').click()")
            await page.until("!document.getElementById('error').hidden")
            assert "at most 50" in await text_of(page, "error")
            assert not await shown(page, "result")

    with ourselves.start(
        bundles, "--token-env", "SECRET", "--max-characters", 50, environment={"SECRET": TOKEN}
    ) as running:
        run(look(running.url))


def test_the_page_allows_nothing_from_elsewhere(served: Any) -> None:
    answer = httpx.get(f"http://{served.url}/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", answer.text)
    assert not re.findall(r"https?://", answer.text)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
