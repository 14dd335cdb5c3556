"""The error tree: one class and one status per code, drawn as it is."""

from __future__ import annotations

import pickle
import re

import pytest

from superbatch.formats.errors import SuperbatchError
from superbatch_server.schemas import errors
from superbatch_server.schemas.errors import STATUS_OF_CODE, ApiError, BehindRetention


def family(base: type[ApiError]) -> list[type[ApiError]]:
    return [kind for child in base.__subclasses__() for kind in (child, *family(child))]


FAMILY = [kind for kind in family(ApiError) if kind.__module__ == errors.__name__]


def test_every_class_has_a_code_of_its_own_and_a_status() -> None:
    codes = [kind.code for kind in FAMILY]
    assert len(set(codes)) == len(codes)
    for kind in FAMILY:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
        assert STATUS_OF_CODE[kind.code] == kind.status
        assert kind.title
        assert issubclass(kind, SuperbatchError)


def test_the_drawing_shows_every_class_below_its_parent() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"((?:│   |    )*)(?:[├└]── )(\w+).*", line)
        if found:
            depth = len(found.group(1)) // 4
            del path[depth:]
            drawn[found.group(2)] = path[-1] if path else "SuperbatchError"
            path.append(found.group(2))
    kinds: list[type[ApiError]] = [ApiError, *FAMILY]
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in kinds}


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.code)
def test_an_error_survives_pickling(kind: type[ApiError]) -> None:
    error = kind("rule; got x", 7) if kind is BehindRetention else kind("rule; got x")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "rule; got x"
    assert again.extensions() == error.extensions()
