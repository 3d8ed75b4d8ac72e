"""browse.py runs in the site's own environment; pytest, which seeks doctests, cannot import it."""

collect_ignore = ["browse.py"]
