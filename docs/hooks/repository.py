"""Pages of the site that are made of files outside docs/, and the links that lead there.

README, changelog and contributing guide become pages. Any other file of the repository that a page
links to becomes a page that shows it, and a folder a page that lists it: a link that works in the
repository works on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from pygments.lexers import find_lexer_class_for_filename

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples": "gallery/index.md",
}
_CODE = r"^(?P<fence> *`{3,}).*?^(?P=fence) *$|`[^`\n]+`"
_LINK = r"(?P<before>\]\(|^\[[^\]\n]+\]: +|\b(?:src|srcset|href)=\")(?P<path>[\w./-]+)"
_CODE_OR_LINK = re.compile(f"{_CODE}|{_LINK}", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(
    r'<picture>\s*<source[^>]*dark[^>]*srcset="(?P<dark>[^"]+)"[^>]*>\s*'
    r'<img(?P<start>[^>]*)src="(?P<light>[^"]+)"(?P<end>[^>]*)>\s*</picture>'
)


def on_files(files, config):
    for name, uri in PAGES.items():
        if name.endswith(".md"):
            files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    for file in list(files.documentation_pages()):
        for match in _CODE_OR_LINK.finditer(file.content_string):
            _add(_target(file.src_uri, match["path"]), files, config)
    return files


def on_page_markdown(markdown, page, **_):
    uri = page.file.src_uri

    def with_link(match):
        target = _target(uri, match["path"])
        if target is None:
            return match[0]
        return match["before"] + posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".")

    return _PICTURE.sub(_both_schemes, _CODE_OR_LINK.sub(with_link, markdown))


def _both_schemes(picture):
    """Writes a picture with a dark variant so that it follows the switch of the site."""
    images = [
        f'<img{picture["start"]}src="{picture[scheme]}#only-{scheme}"{picture["end"]}>'
        for scheme in ("light", "dark")
    ]
    return "".join(images)


def _target(uri, link):
    """Returns the path in the repository that a link of a page leads to; None if it leads to none.

    Args:
      uri: The page.
      link: The link without its anchor; None for a match that is code.
    """
    if link is None or uri.startswith("source/"):
        return None
    made_of = {page: name for name, page in PAGES.items()}.get(uri, f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(made_of), link))
    return path if not path.startswith(".") and (ROOT / path).exists() else None


def _uri(path):
    """Returns the page or file of the site that shows a file or folder of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("examples/"):
        return f"gallery/{Path(path).stem}.md"
    in_docs = path.startswith("docs/")
    place = path.removeprefix("docs/") if in_docs else f"source/{path}"
    if (ROOT / path).is_dir():
        return f"{place}/index.md"
    return place if in_docs else f"{place}.md"


def _add(path, files, config):
    """Adds the page of a file or folder, unless it is there."""
    if path is not None and files.get_file_from_path(_uri(path)) is None:
        content = _list(path, files, config) if (ROOT / path).is_dir() else _code(path)
        content = f"---\nsearch: {{exclude: true}}\n---\n\n# `{path}`\n\n{content}"
        files.append(File.generated(config, _uri(path), content=content))


def _code(path):
    lexer = find_lexer_class_for_filename(path)
    fence = "`" * 8
    name = lexer.aliases[0] if lexer else "text"
    return f"{fence}{name}\n{(ROOT / path).read_text().rstrip()}\n{fence}\n"


def _list(path, files, config):
    """Returns links to the files of a folder, and the names of its folders."""
    lines, folder = [], posixpath.dirname(_uri(path))
    for child in sorted((ROOT / path).iterdir()):
        if child.is_file():
            name = f"{path}/{child.name}"
            _add(name, files, config)
            lines.append(f"- [`{child.name}`]({posixpath.relpath(_uri(name), folder)})")
        elif child.name != "__pycache__":
            lines.append(f"- `{child.name}/`")
    return "\n".join(lines)
