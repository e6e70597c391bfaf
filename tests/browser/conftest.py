"""Chromium and the built book for the tests of this folder; without Chromium they skip and say so."""

import chromium
import pytest


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    pytest.importorskip("axe_playwright_python", reason="axe is not installed: pip install -e '.[test]'")
    if chromium.executable() is None:
        pytest.skip("there is no Chromium: install it (Debian: apt install chromium), or name one in CHROMIUM")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium.executable(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser):
    """new_page(**context options): a page that reaches files and this machine only; errors are in page.errors."""
    contexts = []

    def opened(**options):
        context = browser.new_context(**{"viewport": chromium.DESK, "reduced_motion": "reduce", **options})
        contexts.append(context)
        own = ("file:", "data:", "blob:", "http://127.0.0.1:")
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(own) else route.abort())
        page = context.new_page()
        page.errors = []
        chromium.listen(page, page.errors, page.errors, own)
        return page

    yield opened
    for context in contexts:
        context.close()
