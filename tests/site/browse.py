"""Opens every page of the built site in Chromium, without a network, and prints what is wrong.

    .venv-docs/bin/python tests/site/browse.py site [folder for pictures of every page]

Each page is looked at wide and narrow, light and dark. Nothing printed is nothing wrong.
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Error, sync_playwright

WIDTHS = (1280, 390)
SCHEMES = {"light": "default", "dark": "slate"}
# `<name>` in Markdown is a tag of HTML that nobody meant: it and its brackets are not seen.
LOOK = """() => {
  const isNoTag = of => of instanceof HTMLUnknownElement || of.localName == 'option';
  return {
    width: document.documentElement.scrollWidth,
    scheme: document.body.dataset.mdColorScheme,
    broken: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    tags: [...document.querySelectorAll('article *')].filter(isNoTag).map(of => of.localName),
    links: [...document.links].map(link => link.href),
    anchors: [...document.querySelectorAll('[id], a[name]')].map(of => of.id || of.name),
  };
}"""


def main(site, pictures=None):
    site = Path(site).resolve()
    # 404.html is for a server: its links begin at the root.
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 1, site
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in SCHEMES:
            tab, found = _tab(browser, scheme), {}
            for path in pages:
                found[path], faults = _look(tab, path, scheme, pictures)
                for fault in faults:
                    print(f"{path.relative_to(site)}, {scheme}: {fault}", flush=True)
        print(*_dead_links(found), *_search(tab, site / "index.html", "hardness"), sep="\n", end="")
        browser.close()


def _tab(browser, scheme):
    tab = browser.new_context(color_scheme=scheme, offline=True).new_page()
    tab.faults = []
    tab.on("console", lambda said: said.type == "error" and tab.faults.append(said.text))
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.on("request", lambda asked: _is_outside(asked.url) and tab.faults.append(asked.url))
    return tab


def _is_outside(url):
    return urlsplit(url).scheme not in ("file", "data", "blob", "about")


def _look(tab, path, scheme, pictures):
    """Returns the links and anchors of a page, and what is wrong with it.

    It is made narrower, never wider: then Chromium would be asked for its width amid a transition.
    """
    tab.faults = faults = []
    tab.set_viewport_size({"width": max(WIDTHS), "height": 900})
    tab.goto(path.as_uri())
    for width in sorted(WIDTHS, reverse=True):
        tab.set_viewport_size({"width": width, "height": 900})
        found = tab.evaluate(LOOK)
        if found["width"] > width:
            faults.append(f"it is {found['width']} pixels wide in a window of {width}")
        if found["scheme"] != SCHEMES[scheme]:
            faults.append(f"its colours are {found['scheme']}")
        if pictures:
            name = f"{path.parent.name}-{path.stem}-{width}-{scheme}.png"
            tab.screenshot(path=Path(pictures) / name, full_page=True)
    faults += [f"there is no image {image}" for image in found["broken"]]
    faults += [f"<{tag}> is a tag without a meaning" for tag in found["tags"]]
    return found, faults


def _dead_links(found):
    """Yields the links within the site that lead nowhere, each once."""
    linked = {url: path for path, of_page in found.items() for url in of_page["links"]}
    for url, path in linked.items():
        parts = urlsplit(url)
        to, anchor = Path(unquote(parts.path)), unquote(parts.fragment)
        is_dead = not to.is_file() or (
            anchor and to in found and anchor not in found[to]["anchors"]
        )
        if parts.scheme == "file" and is_dead:
            yield f"{path.name} links to {to}#{anchor}"


def _search(tab, path, word):
    """Yields a line unless the search, from the disk, finds a word that is on many pages."""
    tab.set_viewport_size({"width": max(WIDTHS), "height": 900})
    tab.goto(path.as_uri())
    try:
        tab.locator("input.md-search__input").click(timeout=20_000)
        tab.keyboard.type(word)
        tab.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    except Error as error:
        yield f"the search does not find {word!r}: {error}"


if __name__ == "__main__":
    main(*sys.argv[1:])
