"""The pages tell the truth: commands that parse, links that lead somewhere, nothing that is not described."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from crossbeat.cli import app, method_command
from crossbeat.data import LAYOUTS
from crossbeat.labels import CONVENTIONS
from crossbeat.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = typer.main.get_command(app).commands | {  # type: ignore[attr-defined]
    name: typer.main.get_command(method_command(method, name))
    for method in METHODS.values()
    for name in method.commands
}

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def shell_lines(text: str) -> Iterator[str]:
    """Lines of shell in a page's fenced blocks, those that end in a backslash joined, without a prompt."""
    for language, block in blocks(text):
        if language in ("console", "bash", "sh", "shell", ""):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ")


def commands_of(text: str) -> Iterator[str]:
    """The crossbeat commands of a page: in its blocks, and in line with their options."""
    yield from (line for line in shell_lines(text) if re.match(r"crossbeat\s", line))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (found[1] for found in re.finditer(r"`(crossbeat [^`]+)`", prose))


def parse(line: str) -> None:
    """Fails as the command line would: unknown command, unknown option, missing argument."""
    words = shlex.split(line, comments=True)[1:]
    if words == ["--help"]:
        return
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    # `…` or `...` at the end of a line in prose stand for what the reader knows
    command, rest = COMMANDS[words[0]], [word for word in words[1:] if word not in ("…", "...")]
    complete = len(rest) == len(words) - 1 and rest
    command.make_context(words[0], rest, resilient_parsing=not complete)


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and its kin make them."""
    lines = re.findall(r"^#+ +(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@page
def test_every_command_on_a_page_parses(path: Path) -> None:
    for line in commands_of(path.read_text(encoding="utf-8")):
        try:
            parse(line)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{path.relative_to(ROOT)}: `{line}`: {error}")


def test_the_reader_of_pages_sees_wrong_commands() -> None:
    for line in ("crossbeat tarin x", "crossbeat train supervised c.csv", "crossbeat info --jsn"):
        with pytest.raises((Exception, SystemExit)):
            parse(line)
    text = "```console\n$ crossbeat info \\\n  --json\n```\nand `crossbeat check c.csv`, or `make test`"
    assert [line.split() for line in commands_of(text)] == [
        ["crossbeat", "info", "--json"],
        ["crossbeat", "check", "c.csv"],
    ]


@page
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.relative_to(ROOT)} links to {target}, which is not there"
        assert place.is_relative_to(ROOT), f"{path.relative_to(ROOT)} links out of the repository: {target}"
        assert not anchor or anchor in headings(place), f"{path.relative_to(ROOT)}: no heading for {target}"


@page
def test_every_make_target_on_a_page_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


USED = [*PAGES, *(ROOT / "recipes").glob("*.yaml"), *(ROOT / "studies").glob("*.yaml")]


@pytest.mark.parametrize("path", USED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_user_is_sent_to_design_notes(path: Path) -> None:
    assert path.name == "CONTRIBUTING.md" or "methods.md" not in path.read_text(encoding="utf-8")


@page
def test_no_page_is_left_with_a_gap_to_fill(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|TBD|XXX|RESULTS)\b", path.read_text(encoding="utf-8"))


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line.startswith("## "))
    assert "unreleased" in first.lower()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_page_that_shows_how_to_run_it(name: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert any(line.startswith(f"crossbeat train {name} ") for line in commands_of(text))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_is_described(name: str) -> None:
    assert re.search(rf"`{name}`", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_every_label_convention_is_named(name: str) -> None:
    assert re.search(rf"`{name}`", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_shown_somewhere(name: str) -> None:
    shown = re.compile(rf"(crossbeat|make) {name}\b")
    assert any(shown.search(path.read_text(encoding="utf-8")) for path in PAGES)
