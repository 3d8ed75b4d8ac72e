"""A function or type that a page names in code becomes a link to its place in the API pages.

Elsewhere than on API pages a name counts only with its module: `cj.focal_loss`.
"""

import re

_DIRECTIVE = re.compile(r"^::: (\S+)\n((?:    .*\n?)*)", re.MULTILINE)
_MEMBER = re.compile(r"^        - (\w+)$", re.MULTILINE)
_LINKED = r"<(?P<tag>pre|a|autoref|b|h\d)\b.*?</(?P=tag)>"
_NAME = r"<code>(?P<module>(?:cj|cyclical_jax)\.(?:\w+\.)*)?(?P<name>\w+)</code>"
_NAMED = re.compile(f"{_LINKED}|{_NAME}", re.DOTALL)
_FULL: dict[str, str] = {}


def on_files(files, **_):
    for file in files.documentation_pages():
        if file.src_uri.startswith("api/"):
            for name in shown(file.content_string):
                _FULL[name.rpartition(".")[2]] = name


def shown(text):
    """Yields the full names that a page shows; those of modules, too, beside their members."""
    for name, options in _DIRECTIVE.findall(text):
        is_module = "show_root_heading: false" in options
        yield from (f"{name}.{member}" for member in _MEMBER.findall(options) if is_module)
        yield name


def on_page_content(html, page, **_):
    is_api = page.file.src_uri.startswith("api/")

    def linked(match):
        full, module = _FULL.get(match["name"] or "", ""), match["module"]
        is_meant = module or (is_api and full and "_" in match["name"])
        if not is_meant or not full.startswith((module or "").replace("cj.", "cyclical_jax.")):
            return match[0]
        return f'<autoref identifier="{full}" optional>{match[0]}</autoref>'

    return _NAMED.sub(linked, html)
