"""The built book in Chromium, cut off from the network: what one visit to each page finds."""

import os
import shutil
from pathlib import Path

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts and path.name != "index.html")
NAMES = [path.relative_to(SITE).as_posix() for path in PAGES]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

RULES_OF_COLOUR = ["color-contrast", "link-in-text-block"]

# Text that MathJax should have taken: outside code, formulas and scripts.
RAW_MATHEMATICS = r"""() => {
  const walker = document.createTreeWalker(document.querySelector("#main-content"), NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container, svg")) continue;
    if (/\$\$|\\[(\[]|\\begin\{/.test(node.data)) found.push(node.data.trim().slice(0, 80));
  }
  return found;
}"""

# A table or formula wider than a phone scrolls in a box of its own, inside the screen.
SPILLS = """() => {
  const inside = element => element.getBoundingClientRect().right <= innerWidth + 1;
  const scrolls = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const held = element => inside(element) || element.tagName !== "ARTICLE" &&
    [...function* () { for (let box = element; box.tagName !== "ARTICLE"; box = box.parentElement) yield box; }()]
      .some(box => scrolls(box) && inside(box));
  return [...document.querySelectorAll("article :is(table, pre, div.math, img, svg)")]
    .filter(element => element.checkVisibility() && !held(element)).map(element => element.outerHTML.slice(0, 120));
}"""

# Colours of highlighted code that stand out from their ground by less than 4.5 to 1, as WCAG 2 defines it. A page has
# thousands of such spans in few colours: axe would look at each.
PALE_CODE = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => numbers(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    const colour = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
    return (numbers(colour)[3] ?? 1) === 0 ? ground(element.parentElement) : colour;
  };
  const pale = {};
  for (const element of document.querySelectorAll("article pre, article pre span")) {
    const key = getComputedStyle(element).color + " on " + ground(element);
    if (key in pale) continue;
    const [dark, light] = key.split(" on ").map(luminance).sort((a, b) => a - b);
    pale[key] = (light + 0.05) / (dark + 0.05);
  }
  return Object.entries(pale).filter(([_, ratio]) => ratio < 4.5).map(([key, ratio]) => `${key}: ${ratio.toFixed(2)}`);
}"""

# Pictures keep their colours in dark mode.
CHANGED = """() => [...document.querySelectorAll("article :is(img, canvas)")].map(getComputedStyle)
  .map(({ filter, opacity, mixBlendMode }) => [filter, opacity, mixBlendMode].join())
  .filter(style => style !== "none,1,normal")"""

UNFOLD = """() => {
  document.querySelectorAll("article details").forEach(fold => fold.open = true);
  document.querySelectorAll("article .toggle-hidden button.toggle-button").forEach(button => button.click());
}"""

# The theme makes what scrolls reachable 300 ms after something has changed.
REACHABLE = """() => [...document.querySelectorAll("article pre")]
  .every(code => code.scrollWidth <= code.clientWidth || code.tabIndex === 0)"""


def executable() -> str | None:
    """Debian's Chromium, or the one that CHROMIUM names."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((found for found in map(shutil.which, filter(None, names)) if found), None)


def listen(page, errors: list[str], foreign: list[str], own: tuple[str, ...] = ("file:", "data:", "blob:")) -> None:
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"not loaded: {request.url}"))
    page.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))


def settled(page) -> None:
    """Wait until MathJax is done."""
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => true)")


def violations(page, only: list[str] | None = None, code: bool = False) -> list[tuple[str, str, str]]:
    """What axe calls serious or critical, outside of formulas, which MathJax writes, and of code unless `code`."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "preload": False}  # preloading reads style sheets, which file: forbids
    if only:
        options["runOnly"] = only
    exclude = [["mjx-container"]] if code else [["mjx-container"], ["pre"]]
    found = Axe().run(page, context={"exclude": exclude}, options=options).response["violations"]
    return [
        (rule["id"], " ".join(map(str, node["target"])), node["failureSummary"])
        for rule in found if rule["impact"] in ("serious", "critical") for node in rule["nodes"]
    ]  # fmt: skip


def dark(page) -> None:
    page.evaluate("() => { document.documentElement.dataset.mode = document.documentElement.dataset.theme = 'dark' }")
    page.wait_for_timeout(50)


def visit(browser, path: Path) -> dict[str, object]:
    """Open a page from its file, unfold it, look at it in light, in dark and on a phone: what is wrong, by name."""
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    errors, foreign, wrong = [], [], {}
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    page = context.new_page()
    listen(page, errors, foreign)
    page.goto(path.as_uri())
    settled(page)
    formulas, rendered, broken = (
        page.locator(of).count()
        for of in ("span.math, div.math", ".math mjx-container", "mjx-merror, [data-mjx-error]")
    )
    wrong["mathematics"] = page.evaluate(RAW_MATHEMATICS) + [f"{rendered} of {formulas}"] * (rendered != formulas)
    wrong["broken formulas"] = broken
    page.evaluate(UNFOLD)
    page.wait_for_function(REACHABLE, timeout=10_000)
    page.add_style_tag(content="*, *::before, *::after { transition: none !important }")
    theme = "() => document.documentElement.dataset.theme"
    wrong["theme"] = [page.evaluate(theme)] * (page.evaluate(theme) != "light")
    wrong["light"] = violations(page) + violations(page, ["scrollable-region-focusable"], code=True)
    wrong["pale code in light"] = page.evaluate(PALE_CODE)
    page.set_viewport_size(PHONE)
    wrong["pixels wider than a phone"] = max(0, page.evaluate("document.documentElement.scrollWidth - innerWidth"))
    wrong["out of the phone"] = page.evaluate(SPILLS)
    page.set_viewport_size(DESK)
    dark(page)
    wrong["pictures changed in dark"] = page.evaluate(CHANGED)
    wrong["dark"], wrong["pale code in dark"] = violations(page, RULES_OF_COLOUR), page.evaluate(PALE_CODE)
    context.close()
    return {what: found for what, found in (wrong | {"errors": errors, "foreign": foreign}).items() if found}
