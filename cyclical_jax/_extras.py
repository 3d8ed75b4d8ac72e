"""How to install what an extra of this package brings."""


def to_install(extra: str) -> str:
    """Returns the command. It has no name for an index: there it may be a stranger's package."""
    return f'in the clone of cyclical_jax, pip install ".[{extra}]"'
