"""One tar: its bytes are fixed, and Python's own reader finds in it what was stored."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256

import pytest

from superbatch.formats.errors import UnreadableExample
from superbatch.formats.tar import iter_samples
from superbatch.reading import Example
from superbatch.webdataset.tar_writer import picture_suffix, write_tar

JPEG = b"\xff\xd8\xff\xe0 a picture"
PNG = b"\x89PNG\r\n\x1a\n another"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "


def an_example(slot: int, a: bytes = PNG, b: bytes = b"a caption") -> Example:
    return Example(uid=bytes([slot]) * 16, dataset_index=100 + slot, slot=slot, variant=slot % 2, a=a, b=b)


def written(*examples: Example, with_metadata: bool = False) -> bytes:
    out = io.BytesIO()
    length = write_tar(out, examples, seq=7, with_metadata=with_metadata)
    assert length == len(out.getvalue())
    return out.getvalue()


def test_a_tar_holds_picture_and_caption_of_each_row_as_stored() -> None:
    captions = ["eine Überschrift\n".encode(), b"", b"\xff not even UTF-8"]
    content = written(
        an_example(0, JPEG, captions[0]), an_example(1, PNG, captions[1]), an_example(2, WEBP, captions[2])
    )

    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    stems = [f"000000000007-00000{slot}-{bytes([slot] * 16).hex()}" for slot in range(3)]
    assert list(found)[::2] == [f"{stems[0]}.jpg", f"{stems[1]}.png", f"{stems[2]}.webp"]
    assert list(found)[1::2] == [f"{stem}.txt" for stem in stems]
    assert list(found.values()) == [JPEG, captions[0], PNG, captions[1], WEBP, captions[2]]


def test_the_bytes_depend_on_the_rows_alone() -> None:
    content = written(an_example(0), an_example(1, JPEG))

    assert sha256(content).hexdigest() == "a62f3b622df26103adb9c234d92319b96b8ef0ab45589dea91559dd8e4bdc750"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in tar} == {
            (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
        }


def test_a_tar_ends_with_its_end_marker() -> None:
    content = written(an_example(0))
    assert content.endswith(bytes(1024))
    assert len(list(iter_samples(io.BytesIO(content)))) == 1  # raises where the marker is missing


def test_rows_that_are_equal_have_keys_of_their_own() -> None:
    twice = [Example(bytes(16), 5, slot, 0, PNG, b"x") for slot in (0, 1)]
    with tarfile.open(fileobj=io.BytesIO(written(*twice))) as tar:
        assert len(set(tar.getnames())) == 4


def test_metadata_name_uid_place_and_variant() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(an_example(3), with_metadata=True))) as tar:
        file = tar.extractfile(tar.getmembers()[2])
        assert file is not None
        found = json.loads(file.read())
    assert found == {"uid": "03" * 16, "seq": 7, "slot": 3, "variant": 1, "dataset_index": 103}


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_picture_that_readers_would_drop_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableExample, match="JPEG, PNG or WebP"):
        picture_suffix(content, where="row 3")
