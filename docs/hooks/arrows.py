"""An arrow of a docstring's prose, `->`, is shown as one sign, which no line end can cut."""

import re

_CODE_OR_ARROW = re.compile(r"<(pre|code)\b.*?</\1>| -&gt; ", re.DOTALL)


def on_page_content(html, **_):
    return _CODE_OR_ARROW.sub(lambda match: match[0] if match[1] else " → ", html)
