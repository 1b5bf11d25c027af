"""What is typed after `va`: what is wrong with it, told as everything else that is wrong is told.

Typer cuts the summaries of commands in its help, lets an empty word through that a command takes for one that
was left out (`--to "$PLACE"` with no PLACE would be everywhere), and has a voice of its own for usage errors.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ci.errors import BadInput

__all__ = ["Command", "Group", "strict", "wrong_usage"]

_WHOLE = 10_000
"""Letters of a summary: it is wrapped, and never cut."""
_WORDS = (
    (r"No such option: (\S+)(?: \(Possible options: (.*)\)|.*)", r"there is no option \1"),
    (r"No such command '(.*?)'.*", r"there is no command '\1'"),
    (r"Missing (argument|option) '(.*?)'.*", r"the \1 '\2' is missing"),
    (r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", r"nothing is asked for besides: \1"),
    (r"Option '(.*)' requires an argument\.", r"the option '\1' wants a value"),
    (r"Invalid value for (.*?): (.*)", r"\1: \2"),
)
_MEANT = r"(?:Possible options:|Did you mean:?) (.*?)[?)]*$"


class Command(TyperCommand):
    """A command none of whose words is empty."""

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002  it is Typer's
        """The first sentence of its help."""
        return super().get_short_help_str(_WHOLE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """BadInput names what is said, and empty."""
        rest = super().parse_args(ctx, args)
        for one in self.params:
            value = ctx.params.get(one.name)
            source = ctx.get_parameter_source(one.name)
            empty = value == "" or (isinstance(value, (list, tuple)) and "" in value)
            if empty and source is not None and source.name == "COMMANDLINE":
                name = max(one.opts, key=len) if one.param_type_name == "option" else one.name
                raise BadInput(
                    f"{name} is empty", hint=f"say something, or leave it out: {ctx.command_path} -h"
                )
        return rest


class Group(TyperGroup):
    """Commands below one word."""

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002  it is Typer's
        """The first sentence of its help."""
        return super().get_short_help_str(_WHOLE)


def strict(app: typer.Typer) -> typer.Typer:
    """The same, all of whose commands are such ones."""
    for one in app.registered_commands:
        one.cls = Command
    return app


def wrong_usage(error: Exception) -> BadInput | None:
    """What Typer says of a command line, in our words; None for any other error: it has no class for that."""
    if not hasattr(error, "format_message"):
        return None
    if isinstance(getattr(error, "message", None), str):
        error.message = _in_words(error.message)  # type: ignore[attr-defined]
    said: str = error.format_message()
    context = getattr(error, "ctx", None)
    if said.startswith("Usage:"):  # a group, and nothing after it: that is how one asks what there is
        typer.echo(said, err=True)
        raise typer.Exit(BadInput.exit_code)
    meant = re.search(_MEANT, said)
    first = f"did you mean {meant[1]}? " if meant else ""
    for pattern, ours in _WORDS:
        said, found = re.subn(rf"^{pattern}$", ours, said, flags=re.DOTALL)
        if found:
            break
    return BadInput(said, hint=f"{first}{context.command_path if context else 'va'} -h says what there is")


def _in_words(message: str) -> str:
    """What Typer has from pydantic, without its words for types."""
    found = re.fullmatch(
        r"(.*)Input should be (?:a valid (integer|number|\w+)|(.*?))(?:, (?!.*').*)?", message
    )
    if found is None:
        return message.replace("Value error, ", "")
    kind = {"integer": "whole number"}.get(found[2], found[2])
    return f"{found[1]}{f'a {kind} is expected' if kind else f'it should be {found[3]}'}"
