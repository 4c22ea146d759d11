"""The commands: read, call, write, say where and what next. Rooms are imported when a command needs them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from crossbeat.cli import results, scans, segmenters, studies  # noqa: F401  # their commands join the app
from crossbeat.cli.options import app
from crossbeat.errors import CrossbeatError
from crossbeat.methods import METHODS, Method

__all__ = ["app", "main", "method_command"]


def _say_version(asked: bool) -> bool:
    if asked:
        from crossbeat import __version__

        typer.echo(f"crossbeat {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def overall(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="say the version, and stop"),
    ] = False,
) -> None:
    """Segment the heart in cardiac MR where labels are scarce, by borrowing them from where they are plenty."""


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False) -> None:
    """Versions, devices, methods, networks and layouts of this installation."""
    import json

    from crossbeat import console
    from crossbeat.installation import describe

    facts = describe()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, values in facts.items():
        console.facts(title, {key: str(value) for key, value in values.items()})


def offer_method_commands() -> None:
    """Offer the commands that methods bring along; the file of one is imported when it runs."""
    anything = {"ignore_unknown_options": True}
    for method in METHODS.values():
        for name, text in method.commands.items():
            app.command(name, help=text, add_help_option=False, context_settings=anything)(
                _door(method, name)
            )


def method_command(method: Method, name: str) -> typer.Typer:
    """A method's own command with its arguments and options: the function of that name in `crossbeat.cli.<method>`."""
    command = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    command.command(name)(getattr(import_module(f"crossbeat.cli.{method.name}"), name))
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of ours is one message and exit code 2, its traceback with `--debug`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    warnings.showwarning = _tell_plainly
    try:
        app(args=[word for word in words if word != "--debug"])
    except CrossbeatError as error:
        if debug:
            raise
        from crossbeat import console

        console.complain(str(error))
        sys.exit(2)
    except OSError as error:
        if debug or not error.filename:
            raise
        from crossbeat import console

        console.complain(f"{error.filename}: {error.strerror}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _tell_plainly(message: Warning | str, *rest: object, **more: object) -> None:
    from crossbeat import console

    console.warn(str(message))


def _door(method: Method, name: str) -> Callable[[list[str]], None]:
    def run(words: Annotated[list[str], typer.Argument()] = []) -> None:  # noqa: B006
        method_command(method, name)(args=words, prog_name=f"crossbeat {name}")

    return run


offer_method_commands()
