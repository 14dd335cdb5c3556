"""A disk that is full, for real: nothing half-made stays, and the same write succeeds when there is room."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from superbatch_server.schemas.errors import InsufficientStorage, Unavailable
from superbatch_server.storage.disk import is_full
from superbatch_server.storage.store import open_store
from superbatch_server.storage.uploads import Uploads
from tests.small_disk import fill, small_disk

JOB = "job_0123456789abcdef"
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", size="256k") as folder:
        yield folder


def test_a_full_store_keeps_what_it_has_and_takes_the_same_object_later(disk: Path) -> None:
    store = open_store(str(disk / "store"))
    store.put_new("lists/a", b"a" * KIB)
    ballast = fill(disk)
    with pytest.raises(InsufficientStorage, match=r"No space left on device.*superbatch gc"):
        store.put_new("lists/b", b"b" * 64 * KIB)
    assert not store.exists("lists/b")
    assert list((disk / "store/.partial").iterdir()) == [], "the unfinished write is not left to fill the disk"
    assert store.get("lists/a") == b"a" * KIB
    assert not store.put_new("lists/a", b"other"), "what is there already needs no room"
    ballast.unlink()
    assert store.put_new("lists/b", b"b" * 64 * KIB)


def test_a_part_of_an_upload_that_found_no_room_is_not_kept_in_part(disk: Path) -> None:
    uploads, content = Uploads(disk / "uploads"), bytes(range(256)) * 400
    upload = uploads.begin(JOB, sha256(content).hexdigest(), size_bytes=len(content))
    upload = uploads.append(upload, content[:1000], offset=0)
    ballast = fill(disk)
    with pytest.raises(InsufficientStorage, match="goes on where it is"):
        uploads.append(upload, content[1000:], offset=1000)
    assert uploads.begin(JOB, upload.sha256, size_bytes=len(content)).received_bytes == 1000
    ballast.unlink()
    assert uploads.append(upload, content[1000:], offset=1000).received_bytes == len(content)


def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from superbatch_server.storage.store import open_store\n"
        "from superbatch_server.schemas.errors import InsufficientStorage\n"
        "store = open_store(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    store.put_new('a', bytes(8192))\n"
        "except InsufficientStorage as error:\n"
        "    print('told', error)\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN, "Python ignores the signal, so that a write fails"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("told the store must have room; got 'File too large'")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_only_a_lack_of_room_counts_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    for number, expected in ((errno.EDQUOT, InsufficientStorage), (errno.EIO, Unavailable), (errno.EROFS, Unavailable)):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", fail)
        with pytest.raises(expected):
            store.put_new(f"a/{number}", b"1")
    assert not is_full(ValueError("no space"))
