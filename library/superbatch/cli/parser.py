"""The command line's parser: what is wrong in one line, with the flag that was probably meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors in the form of this project. Parsers of sub-commands are of the same class."""

    def error(self, message: str) -> NoReturn:
        """End with one line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")

    def parse_known_args(  # type: ignore[override]  # argparse's overloads are about the namespace's class
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; an unknown argument ends here, where the sub-command's own flags are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return found, unknown

    def _unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"every argument must be known; got {argument!r}, which is one too many"
        flags = [flag for action in self._actions for flag in action.option_strings]
        meant = get_close_matches(argument.partition("=")[0], flags, n=1)
        return f"every flag must be known; got {argument!r}" + (f" (did you mean {meant[0]}?)" if meant else "")
