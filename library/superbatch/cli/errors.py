"""How a command ends: its exit codes, and the errors of the command line itself."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from superbatch.formats.errors import SuperbatchError


class Exit(IntEnum):
    """Exit codes; `superbatch --help` lists them from here."""

    OK = 0
    ENDED_BADLY = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """Return the sentence that --help shows."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.OK: "done; for watch and --wait: it succeeded",
    Exit.ENDED_BADLY: "what was watched ended badly: FAILED, CANCELLED or INVALID",
    Exit.USAGE: "the command line, or a local file it names, is wrong",
    Exit.REFUSED: "the service refused the request; the line names its stable code",
    Exit.UNREACHABLE: "no service was found, or it does not answer",
    Exit.INTERRUPTED: "interrupted; what was submitted goes on",
}


class CommandError(SuperbatchError):
    """The command cannot go on with what it was given."""

    code: ClassVar[str] = "usage"


class NoService(CommandError):
    """Nothing says where the service is, or which token it takes."""

    code: ClassVar[str] = "no_service"
