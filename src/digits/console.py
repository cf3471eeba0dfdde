"""What is written for people: tables as plain text, for the terminal and the log file, and pages from templates."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

TEMPLATES = Path(__file__).parent / "templates"


def table_of(first: str, columns: Iterable[str], title: str | None = None) -> Table:
    """An empty table, with numbers in all columns but the first."""
    table = Table(first, box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """A table without colours and without blanks at a line's end."""
    # A class's name is the user's: no markup in it.
    console = Console(width=width, no_color=True, force_terminal=False, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def rendered(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """Fills one of `TEMPLATES`. In HTML all values are escaped; one that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape  # --help should not wait

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(values)
