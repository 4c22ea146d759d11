"""The templates of the pages and what they share: the head, the escaping, the style sheets within the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def resource(name: str) -> str:
    """The text of a template or a style sheet of this room."""
    return resources.files("crossbeat.report").joinpath(name).read_text(encoding="utf-8")


def style(*names: str) -> str:
    """The style sheets that a page carries within it, `page.css` first."""
    return "".join(map(resource, ("page.css", *names)))


def fill(name: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> str:
    """A template with its values as HTML that loads nothing; every text from outside is escaped.

    It begins with `{% set title = … %}{% include 'head.html' %}`, whose `page` knows its `css` and `version`.
    A name that stands for nothing raises jinja2's `UndefinedError`.
    """
    environment = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name).render(**values)
