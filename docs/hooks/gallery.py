"""The gallery: a page for each script of examples/, made of its docstring and its code.

The first line of a docstring is "Title: a sentence." A line that begins with `python` is how the
script is run, and says what it needs. The command of a plugin is the one in docs/extending.md,
where a test runs it.
"""

import ast
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
GROUPS = {
    "In your own training loop": sorted(ROOT.glob("examples/*.py")),
    "Plugins for the trainer": sorted(ROOT.glob("examples/plugins/*.py")),
}
INTRODUCTION = """# Gallery

Each script is complete and short: copy it and change it. The first ones are training loops of
common libraries; they print the loss and the numbers that cycle at about five updates. The plugins
add a loss, a network, a technique or a task to the trainer: [Extending](../extending.md) explains
them.
"""


def on_config(config):
    for tab in config.nav:
        if "Gallery" in tab:
            groups = [{group: [_uri(path) for path in paths]} for group, paths in GROUPS.items()]
            tab["Gallery"] = ["gallery/index.md", *groups]
    return config


def on_files(files, config):
    pages = {_uri(path): _page(path) for paths in GROUPS.values() for path in paths}
    for uri, content in {**pages, "gallery/index.md": _index()}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def _uri(path):
    return f"gallery/{path.stem}.md"


def _index():
    lines = [INTRODUCTION]
    for group, paths in GROUPS.items():
        lines += [f"## {group}", '<div class="grid cards" markdown>']
        for path in paths:
            title, sentence, *_ = _parts(path)
            lines.append(f"-   **[{title}]({path.stem}.md)**\n\n    {sentence}")
        lines.append("</div>")
    return "\n\n".join(lines)


def _page(path):
    title, sentence, own, more = _parts(path)
    name = path.relative_to(ROOT).as_posix()
    code = f'```python title="{name}"\n{path.read_text().rstrip()}\n```'
    command = own or _command(name)
    return "\n\n".join([f"# {title}", sentence, more, f"```bash\n{command}\n```", code])


def _parts(path):
    """Returns title, sentence, command and further paragraphs of a docstring."""
    first, *paragraphs = ast.get_docstring(ast.parse(path.read_text())).split("\n\n")
    title, sentence = first.split(": ", 1)
    commands = [text.strip() for text in paragraphs if text.strip().startswith("python ")]
    more = [text for text in paragraphs if text.strip() not in commands]
    return title, sentence[0].upper() + sentence[1:], "".join(commands), "\n\n".join(more)


def _command(name):
    """Returns how a plugin is run, from docs/extending.md."""
    text = (ROOT / "docs/extending.md").read_text()
    command = re.search(
        rf"^python (?:.*\\\n)*.*{re.escape(name)}(?:.*\\\n)*.*$", text, re.MULTILINE
    )
    if command is None:
        raise PluginError(f"docs/extending.md has no command for {name}")
    return command[0]
