"""The folder of uploads under racing writers and a killed process: a part is there or not, and nothing unverified gets
a final name."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from superbatch_server.schemas.errors import DigestMismatch, NotFound, Unavailable, WrongOffset
from superbatch_server.storage.uploads import Uploads

JOB = "job_0123456789abcdef"


def weights(num_bytes: int) -> bytes:
    """Return a safetensors file of one tensor with random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(3).randbytes(num_bytes)


CONTENT = weights(100_000)
DIGEST = sha256(CONTENT).hexdigest()


def send(uploads: Uploads, part_bytes: int) -> None:
    """Send as a client does that may be overtaken at any time."""
    upload = uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT))
    while not upload.is_complete:
        try:
            if upload.received_bytes == upload.size_bytes:
                upload = uploads.complete(upload)
            else:
                offset = upload.received_bytes
                upload = uploads.append(upload, CONTENT[offset : offset + part_bytes], offset=offset)
        except (WrongOffset, NotFound):
            upload = uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT))


def test_racing_senders_of_the_same_bytes_make_one_right_file(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for sent in [pool.submit(send, uploads, part_bytes) for part_bytes in (700, 1000, 1300, 9000) * 2]:
            sent.result()
    assert [path.name for path in (tmp_path / JOB).iterdir()] == [f"{DIGEST}.safetensors"]
    assert (tmp_path / JOB / f"{DIGEST}.safetensors").read_bytes() == CONTENT


def test_a_part_waits_for_the_writer_before_it(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    upload = uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT))
    with ThreadPoolExecutor(1) as pool:
        with upload.path.open("r+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            sent = pool.submit(uploads.append, upload, CONTENT[:10], offset=0)
            with pytest.raises(TimeoutError):
                sent.result(timeout=0.5)
        assert sent.result().received_bytes == 10


def test_a_process_killed_between_and_within_parts_is_gone_on_with(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from superbatch_server.storage.uploads import Uploads\n"
        "uploads, content = Uploads(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()\n"
        f"upload = uploads.begin('{JOB}', '{DIGEST}', size_bytes=len(content))\n"
        "print('begun', flush=True)\n"
        "while upload.received_bytes < len(content) - 50:\n"
        "    at = upload.received_bytes\n"
        "    upload = uploads.append(upload, content[at:at + 50], offset=at)\n"
    )
    (tmp_path / "content").write_bytes(CONTENT)
    uploads = Uploads(tmp_path / "uploads")
    for _ in range(2):
        arguments = [sys.executable, "-c", code, str(uploads.folder), str(tmp_path / "content")]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            before = uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT)).received_bytes
            while uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT)).received_bytes < before + 500:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
    assert 0 < uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT)).received_bytes < len(CONTENT)
    send(uploads, 7000)
    assert (uploads.folder / JOB / f"{DIGEST}.safetensors").read_bytes() == CONTENT


def test_what_a_power_cut_tore_never_gets_a_name(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    upload = uploads.begin(JOB, DIGEST, size_bytes=len(CONTENT))
    upload = uploads.append(upload, CONTENT, offset=0)
    with upload.path.open("r+b") as file:
        file.seek(50_000)
        file.write(bytes(4096))
    with pytest.raises(DigestMismatch, match=DIGEST):
        uploads.complete(upload)
    assert list((tmp_path / JOB).iterdir()) == []
    send(uploads, 30_000)


def test_a_folder_that_cannot_be_used_is_said_to_be_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"must be usable; got .*file"):
        Uploads(tmp_path / "file").begin(JOB, DIGEST, size_bytes=10)


def test_other_files_in_the_folder_are_no_uploads(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "none")
    assert list(uploads.all()) == []
    assert uploads.free_bytes() > 0
    uploads.begin(JOB, DIGEST, size_bytes=10)
    (uploads.folder / JOB / "notes.txt").write_bytes(b"x")
    (uploads.folder / "notes").mkdir()
    assert [found.sha256 for found in uploads.all()] == [DIGEST]
