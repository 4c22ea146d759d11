"""The templates: one head for all pages, texts from outside escaped, a name that stands for nothing not passed over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from crossbeat.report import templates
from crossbeat.report.templates import fill, resource, style

PAGES = sorted(
    path.name for path in Path(templates.__file__).parent.glob("*.html") if path.name != "head.html"
)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Templates by name, in place of those of the room; the head is the real one."""
    texts = {"head.html": resource("head.html")}
    monkeypatch.setattr(templates, "resource", texts.__getitem__)
    return texts


@pytest.mark.parametrize("name", ["page.html", "study.html", "motion.html"])
def test_no_page_has_a_head_of_its_own(name: str) -> None:
    assert name in PAGES
    assert "{% include 'head.html' %}" in resource(name)
    assert "<head>" not in resource(name)


def test_a_page_has_its_title_escaped_and_its_styles_whole(written: dict[str, str]) -> None:
    written["small.html"] = "{% set title = name %}{% include 'head.html' %}<p>{{ name | louder }}</p>"
    page = SimpleNamespace(version="7", css="a > b {}")
    found = fill("small.html", {"page": page, "name": "LV < RV"}, {"louder": str.upper})
    assert "<title>LV &lt; RV · crossbeat</title>" in found
    assert "\na > b {}\n" in found
    assert found.endswith("<p>LV &lt; RV</p>")


def test_a_name_that_stands_for_nothing_is_an_error(written: dict[str, str]) -> None:
    written["small.html"] = "{{ nobody }}"
    with pytest.raises(UndefinedError, match="nobody"):
        fill("small.html", {}, {})


def test_the_shared_style_sheet_comes_first_so_that_a_pages_own_can_overrule_it() -> None:
    assert style("study.css") == resource("page.css") + resource("study.css")
