"""Pages of one file, report.html: their templates are filled so that nothing that a stranger named becomes markup.

page.css is the style of all of them; a template includes it. What a page says is another room's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import one_line

if TYPE_CHECKING:
    import jinja2


def page_environment(package: str) -> jinja2.Environment:
    """The environment of the templates of a package of ours: everything is escaped, a name that is not known raises."""
    import jinja2  # late: who writes no page does not need it

    loaders = [jinja2.PackageLoader(name, "") for name in (package, __package__)]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_on_one_line,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _on_one_line(value: Any) -> Any:
    """A value as it stands on the page: nothing in a name turns what follows it around. Figures stay as they are."""
    return one_line(value) if type(value) is str else value
