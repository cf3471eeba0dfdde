"""Tables as plain text, for the terminal and the log file."""

from rich.console import Console, RenderableType


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """A table without colours and without blanks at a line's end."""
    # A class's name is the user's: no markup in it.
    console = Console(width=width, no_color=True, force_terminal=False, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
