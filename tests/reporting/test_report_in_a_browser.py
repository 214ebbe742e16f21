"""The page in a real browser: it renders, sorts, filters, and asks nobody for anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tenant_middleware.reporting.page import to_html
from tenant_middleware.reporting.report import collect
from tests.reporting.books import DAY, NOW, Made

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser(missing_service: Callable[[str], NoReturn]) -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing_service("no Chromium on this machine: install Debian's `chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


class Seen:
    """An open page and what it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, **size: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(**size)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


def written(tmp_path: Path, tenants: int, **options: Any) -> Path:
    made = Made(tenants)
    path = tmp_path / "report.html"
    path.write_text(to_html(collect(made, made, since=NOW - 7 * DAY, until=NOW, **options)), encoding="utf-8")
    return path


@pytest.mark.parametrize("tenants", [1, 50, 5_000])
def test_it_renders_sorts_and_filters(browser: Any, tmp_path: Path, tenants: int) -> None:
    path = written(tmp_path, tenants)
    seen = Seen(browser, path, viewport={"width": 1200, "height": 900})
    page = seen.page
    rows = page.locator("#tenants tbody tr")
    assert rows.count() == min(tenants, 100) and page.locator(".heat").count() == 5
    dollars = [float(text) for text in page.locator("#tenants tbody tr td:nth-child(2)").all_inner_texts()]
    assert dollars == sorted(dollars, reverse=True)
    page.get_by_role("button", name="Tenant").press("Enter")
    assert page.locator("#tenants th[aria-sort=ascending]").inner_text().startswith("Tenant")
    assert rows.first.locator("th").inner_text() == "tenant-0000"
    page.get_by_label("Show tenants").fill(f"-{tenants - 1:04d}")
    assert rows.count() == 1 and page.locator("#shown").inner_text().startswith("1 of 1 ")
    assert not seen.complaints and seen.requests == [path.as_uri()]


def test_it_fits_a_phone_and_is_read_by_keyboard(browser: Any, tmp_path: Path) -> None:
    seen = Seen(browser, written(tmp_path, 50), viewport={"width": 360, "height": 740})
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    first = page.locator(".heat td[tabindex='0']").first
    first.focus()
    page.keyboard.press("ArrowRight")
    told = page.locator(".told").first.inner_text()
    assert told.startswith(page.locator(".heat tbody th").first.inner_text()) and not seen.complaints


def test_it_prints(browser: Any, tmp_path: Path) -> None:
    seen = Seen(browser, written(tmp_path, 50), viewport={"width": 1200, "height": 900})
    assert seen.page.pdf().startswith(b"%PDF")
    seen.page.emulate_media(media="print")
    assert not seen.page.locator(".tools").is_visible() and seen.page.locator("#tenants").is_visible()


def test_a_tenants_own_page_has_no_table_of_tenants(browser: Any, tmp_path: Path) -> None:
    seen = Seen(browser, written(tmp_path, 50, tenant_id="tenant-0003"), viewport={"width": 800, "height": 600})
    assert seen.page.locator("#tenants").count() == 0 and "tenant-0004" not in seen.page.content()
    assert not seen.complaints
