"""Words for numbers of things, in messages."""


def counted(number: float, one: str, many: str = "") -> str:
    """Returns a number with its noun: "1 update", "1,200 updates", "2.5 epochs".

    Args:
      number: How many there are.
      one: The noun for one.
      many: The noun for other numbers; by default `one` with an s.
    """
    shown = f"{int(number):,}" if number == int(number) else f"{number:,.6g}"
    return f"{shown} {one if number == 1 else many or f'{one}s'}"
