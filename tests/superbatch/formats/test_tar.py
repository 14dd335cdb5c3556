"""Samples of a tar, against tarfile as the slow and obvious reference, and against hostile files."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.formats.errors import CorruptFile, NotATar, SuperbatchError
from superbatch.formats.tar import MAX_SAMPLE_MEMBERS, TarMember, count_samples, iter_samples, split_name
from tests.superbatch.formats.sample_batches import a_tar

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "d" * 90 + "/" + "n" * 120
PAIRS = a_tar([("s/0.png", b"P" * 700), ("s/0.txt", b"red"), ("s/1.png", b""), ("s/1.txt", b"blue")])


class OneWay(io.RawIOBase):
    """A pipe: can be read forward only, and gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:
        part = self._inner.read(min(len(buffer), 300))
        buffer[: len(part)] = part
        return len(part)


OPENERS: list[Callable[[bytes], BinaryIO]] = [io.BytesIO, OneWay]  # type: ignore[list-item]


def appended(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def info(name: str, size: int = 0, type: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, type
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def patched(data: bytes, offset: int, **fields: bytes) -> bytes:
    """The tar with fields of the header at `offset` replaced and its checksum made right."""
    places = {"name": 0, "size": 124, "type": 156, "prefix": 345}
    header = bytearray(data[offset : offset + 512])
    for name, value in fields.items():
        header[places[name] : places[name] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:offset] + bytes(header) + data[offset + 512 :]


@pytest.mark.parametrize("opened", OPENERS)
def test_samples_are_runs_of_one_key(opened: Callable[[bytes], BinaryIO]) -> None:
    first, second = iter_samples(opened(PAIRS), read=True)
    assert (first.sample_index, first.key, first.sample_offset, first.sample_length) == (0, "s/0", 0, 512 + 1024 + 1024)
    assert first.members == (TarMember("png", 512, 700), TarMember("txt", 2048, 3))
    assert first.data == {"png": b"P" * 700, "txt": b"red"}
    assert (second.sample_index, second.key, second.sample_offset, second.sample_length) == (1, "s/1", 2560, 512 + 1024)
    assert second.data == {"png": b"", "txt": b"blue"}
    assert second.member("txt") == TarMember("txt", 3584, 4)
    assert second.member("json") is None


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize("format", FORMATS)
def test_positions_are_those_of_tarfile(format: int, opened: Callable[[bytes], BinaryIO]) -> None:
    long = "l" * 90 if format == tarfile.USTAR_FORMAT else LONG
    names = [f"{key}.{suffix}" for key in ("a", long, "über/ß", "z") for suffix in ("png", "txt")]
    data = a_tar([(name, name.encode() * 9) for name in names], format=format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    samples = list(iter_samples(opened(data), read=True))
    found = [
        (f"{each.key}.{member.suffix}", member.offset, member.length) for each in samples for member in each.members
    ]
    assert found == expected
    for sample in samples:
        assert sample.data == {
            member.suffix: data[member.offset : member.offset + member.length] for member in sample.members
        }


@pytest.mark.parametrize("format", FORMATS)
def test_the_range_of_a_sample_is_a_tar_of_it_alone(format: int) -> None:
    long = "l" * 90 if format == tarfile.USTAR_FORMAT else LONG
    data = a_tar(
        [(f"{key}.{suffix}", b"x" * 513) for key in (long, "b", long + "c") for suffix in ("a", "b")], format=format
    )
    samples = list(iter_samples(io.BytesIO(data), read=True))
    assert [sample.key for sample in samples] == [long, "b", long + "c"]
    stop = 0
    for sample in samples:
        assert sample.sample_offset == stop
        stop = sample.sample_offset + sample.sample_length
        alone = data[sample.sample_offset : stop] + bytes(1024)
        (again,) = iter_samples(io.BytesIO(alone), read=True)
        assert (again.key, again.data) == (sample.key, sample.data)


NAMES = st.text(st.sampled_from("ab./é_"), min_size=1, max_size=12).filter(
    lambda name: name.strip("/.") and name[-1] != "/"
)


@settings(max_examples=150, deadline=None)
@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
    format=st.sampled_from(FORMATS),
    opened=st.sampled_from(OPENERS),
)
def test_any_tar_gives_the_members_that_tarfile_gives(
    files: list[tuple[str, bytes]], format: int, opened: Callable[[bytes], BinaryIO]
) -> None:
    data = a_tar(files, format=format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [
            (*name, member.offset_data, member.size)
            for member in tar
            if member.isreg() and (name := split_name(member.name)) is not None
        ]
    samples = list(iter_samples(opened(data)))
    assert [(each.key, m.suffix, m.offset, m.length) for each in samples for m in each.members] == expected
    assert [sample.sample_index for sample in samples] == list(range(len(samples)))
    assert count_samples(opened(data)) == len(samples)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("s/000.left.PNG", ("s/000", "left.png")),
        ("a.b/c.jpg", ("a.b/c", "jpg")),
        ("./a.jpg", ("./a", "jpg")),
        ("a.", ("a", "")),
        ("c", None),
        (".hidden", None),
        ("a/.hidden.jpg", None),
        ("a/", None),
        ("__index__", None),
        ("__meta__/a.jpg", None),
        ("__a.jpg", ("__a", "jpg")),
    ],
)
def test_names_are_cut_at_the_first_dot(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


def test_what_is_no_plain_file_is_stepped_over() -> None:
    others = [
        (info("s", type=tarfile.DIRTYPE), b""),
        (info("s/0.lnk", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (info("s/0.hard", type=tarfile.LNKTYPE, linkname="s/0.png"), b""),
        (info("s/0.dev", type=tarfile.CHRTYPE), b""),
        (info("s/0.fifo", type=tarfile.FIFOTYPE), b""),
        (info("s/0.odd", 3, type=b"Z"), b"odd"),
        (info("s/0.sparse", 4, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), b"0\n\n\n"),
    ]
    data = appended((info("s/0.png", 2), b"pn"), *others, (info("s/0.txt", 3), b"txt"))
    (sample,) = iter_samples(io.BytesIO(data), read=True)
    assert sample.data == {"png": b"pn", "txt": b"txt"}
    assert sample.sample_offset + sample.sample_length == len(data.rstrip(b"\0").ljust(1, b"x")) + 512 - 3


def test_an_old_sparse_member_with_a_long_map_is_stepped_over() -> None:
    data = a_tar([("a.sparse", b"x" * 600), ("b.png", b"pn")], format=tarfile.GNU_FORMAT)
    head = bytearray(patched(data, 0, type=b"S"))
    head[482] = 1
    head = bytearray(patched(bytes(head), 0))
    longer = bytes(head[:512]) + bytes(504) + b"\x01" + bytes(7) + bytes(512) + data[512:]
    (sample,) = iter_samples(io.BytesIO(longer), read=True)
    assert (sample.key, sample.data) == ("b", {"png": b"pn"})


def test_a_repeated_suffix_begins_a_new_sample() -> None:
    data = a_tar([("a.png", b"1"), ("a.txt", b"2"), ("a.PNG", b"3"), ("a.txt", b"4"), ("b.png", b"5"), ("a.png", b"6")])
    samples = list(iter_samples(io.BytesIO(data), read=True))
    assert [(each.key, dict(each.data)) for each in samples] == [
        ("a", {"png": b"1", "txt": b"2"}),
        ("a", {"png": b"3", "txt": b"4"}),
        ("b", {"png": b"5"}),
        ("a", {"png": b"6"}),
    ]


def test_only_wanted_members_are_read_and_long_ones_are_marked() -> None:
    (first, second) = iter_samples(io.BytesIO(PAIRS), read=True, suffixes=("png",), max_member_bytes=699)
    assert (first.data, second.data) == ({"png": None}, {"png": b""})
    assert [member.suffix for member in first.members] == ["png", "txt"]
    assert all(not sample.data for sample in iter_samples(io.BytesIO(PAIRS)))


def test_a_global_pax_header_belongs_to_no_sample() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by hand"}) as tar:
        tar.addfile(info("a.txt", 1), io.BytesIO(b"x"))
    (sample,) = iter_samples(io.BytesIO(out.getvalue()), read=True)
    assert (sample.key, sample.sample_offset, sample.sample_length) == ("a", 1024, 1024)


def test_a_tar_without_members_has_no_samples() -> None:
    assert count_samples(io.BytesIO(a_tar([]))) == 0
    assert count_samples(io.BytesIO(bytes(512))) == 0


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes in all"),
        (b"hello", "got 5 bytes in all"),
        (b"\x1f\x8b\x08" + bytes(600), "got gzip data, which cannot be read by byte range"),
        (b"PK\x03\x04" + bytes(600), "got zip data"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 600, "got bytes 89 50 4e 47"),
        (PAIRS[1:], "must be an uncompressed tar"),
    ],
)
def test_garbage_is_not_a_tar(data: bytes, message: str, opened: Callable[[bytes], BinaryIO]) -> None:
    with pytest.raises(NotATar, match=message):
        count_samples(opened(data))


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize("read", [False, True])
def test_a_tar_cut_off_anywhere_is_never_taken_for_a_whole_one(opened: Callable[[bytes], BinaryIO], read: bool) -> None:
    whole = list(iter_samples(io.BytesIO(PAIRS), read=read))
    end = whole[-1].sample_offset + whole[-1].sample_length
    for stop in [*range(0, end, 100), 512, 1024, 2048, 2560, end]:
        samples = iter_samples(opened(PAIRS[:stop]), read=read)
        complete = sum(sample.sample_offset + sample.sample_length + 512 <= stop for sample in whole)
        assert [next(samples) for _ in range(complete)] == whole[:complete]
        with pytest.raises(CorruptFile):
            next(samples)


@pytest.mark.parametrize("opened", OPENERS)
def test_a_cut_names_member_and_offset(opened: Callable[[bytes], BinaryIO]) -> None:
    with pytest.raises(CorruptFile, match=r"'s/0.png' takes bytes 512 to 1536 but the file ends at 1000 \(shard 3\)"):
        count_samples(opened(PAIRS[:1000]), where="shard 3")


def test_a_damaged_header_names_its_offset() -> None:
    with pytest.raises(CorruptFile, match=r"bad checksum.*offset 2560"):
        count_samples(io.BytesIO(PAIRS[:2560] + b"Z" + PAIRS[2561:]))


def test_two_tars_in_one_file_are_refused() -> None:
    with pytest.raises(CorruptFile, match="joined by cat"):
        count_samples(io.BytesIO(PAIRS + PAIRS))


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80\0\0\0\x0f" + b"\xff" * 7, b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0"]
)
def test_a_forged_length_costs_neither_memory_nor_time(size: bytes, opened: Callable[[bytes], BinaryIO]) -> None:
    for offset in (0, 2560):
        with pytest.raises(CorruptFile):
            list(iter_samples(opened(patched(PAIRS, offset, size=size)), read=True))


def test_a_forged_pax_length_is_refused() -> None:
    for size in ("9" * 18, "9" * 400, "-5", "1e3"):
        data = appended((info("a.png", 3, pax_headers={"size": size}), b"abc"))
        with pytest.raises(CorruptFile):
            list(iter_samples(io.BytesIO(data), read=True))


@pytest.mark.parametrize(
    "record", [b"9 path=a", b"0 path=a\n", b"x path=a\n", b"99 path=a\n", b"7 patha\n", b" \n", b"\xff"]
)
def test_a_damaged_pax_header_is_refused(record: bytes) -> None:
    data = patched(a_tar([("p", record), ("a.png", b"x")]), 0, type=b"x")
    with pytest.raises(CorruptFile, match="pax header"):
        count_samples(io.BytesIO(data))


def test_an_endless_extension_header_is_refused() -> None:
    for type in (b"L", b"K", b"x", b"g"):
        data = patched(PAIRS, 0, type=type, size=b"77777777777\0")
        with pytest.raises(CorruptFile, match="extension header may hold"):
            count_samples(io.BytesIO(data))


def test_an_extension_header_needs_its_member() -> None:
    data = patched(a_tar([("p", b"long/name.png\0")]), 0, type=b"L")
    with pytest.raises(CorruptFile, match="must be followed by its member"):
        count_samples(io.BytesIO(data))


def test_a_key_of_too_many_members_is_refused() -> None:
    files = [(f"a.{number}", b"") for number in range(MAX_SAMPLE_MEMBERS + 1)]
    assert count_samples(io.BytesIO(a_tar(files[:-1]))) == 1
    with pytest.raises(CorruptFile, match="256 members; got more under 'a'"):
        count_samples(io.BytesIO(a_tar(files)))


def test_names_that_are_not_utf8_are_shown_by_their_bytes() -> None:
    (sample,) = iter_samples(io.BytesIO(patched(a_tar([("abc.png", b"x")]), 0, name=b"\xff\xfec.png\0")))
    assert sample.key == "\\xff\\xfec"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_tar_is_our_own_error(data: st.DataObject) -> None:
    whole = a_tar(
        [("a.png", b"x" * 600), (LONG + ".txt", b"y"), ("é.png", b"")], format=data.draw(st.sampled_from(FORMATS[1:]))
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SuperbatchError):
        list(iter_samples(io.BytesIO(bytes(damaged)), read=True))
