"""Commands that other packages add: the server's join through the entry-point group `superbatch.commands`.

An entry point is `def command(arguments: list[str]) -> int`; its name is the command's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from superbatch.cli.errors import CommandError

GROUP = "superbatch.commands"

SERVER_COMMANDS = {
    "serve": "run the service: API, supervisor and dashboard",
    "demo": "the main job from end to end, on sample data",
    "dashboard": "print a fresh address of the dashboard",
    "preview": "what N and f would do to your own data, on a sample",
}
"""Commands of superbatch-server and what they do, for --help; they run only where it is installed."""


Command = Callable[[list[str]], int]
Installed = Callable[[str], Iterable[EntryPoint]]


def installed_commands(name: str) -> Iterable[EntryPoint]:
    """Return the entry points of that name in this environment."""
    return entry_points(group=GROUP, name=name)


def find_plugin(name: str, installed: Installed = installed_commands) -> Command:
    """Return a command of another package. Raises: CommandError when no installed package has it."""
    for found in installed(name):
        return cast("Command", found.load())
    if name in SERVER_COMMANDS:
        raise CommandError(
            f"superbatch {name} is part of the server; this environment has no superbatch-server with that command. "
            "To install superbatch-server, or a newer one: pip install -U superbatch-server (in a clone: make check)."
        )
    raise CommandError(f"{name!r} is no command. See superbatch --help.")
