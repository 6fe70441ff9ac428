"""A vault object read like a file: the same bytes as were put, in bounded memory, and never a byte that was altered."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from edgeward.messages import ObjectRef
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.reading import VaultFile, open_object
from edgeward.privacy.vault import CHUNK, MAGIC, TAG, FileVault, VaultDamaged

SIZES = (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17)


def put(root: Path, data: bytes) -> ObjectRef:
    vault = FileVault(root, SiteKey(os.urandom(32)))
    stored = vault.put(data)
    return vault.reference(stored.object_id, stored.wrapped_key, stored.size)


def opened(reference: ObjectRef) -> VaultFile:
    return VaultFile(reference.path, reference.data_key)


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_object_reads_as_it_was_put(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    reference = put(tmp_path, data)

    with opened(reference) as file:
        assert file.size == size
        assert file.read() == data
        assert file.read() == b""
    with open_object(reference.path, reference.data_key) as buffered:
        assert buffered.read() == data


@pytest.mark.parametrize("buffered", [False, True])
def test_any_place_and_length_reads_like_a_plain_file(tmp_path: Path, buffered: bool) -> None:
    data = os.urandom(5 * CHUNK + 4321)
    plain = tmp_path / "plain"
    plain.write_bytes(data)
    reference = put(tmp_path / "vault", data)
    draw = random.Random(7)

    with (
        plain.open("rb") as want,
        open_object(reference.path, reference.data_key) if buffered else opened(reference) as have,
    ):
        for _ in range(300):
            whence = draw.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
            here = want.tell()
            base = {os.SEEK_SET: 0, os.SEEK_CUR: here, os.SEEK_END: len(data)}[whence]
            target = draw.choice([draw.randrange(len(data) + 5000), CHUNK * draw.randrange(6), CHUNK * 2 - 3])
            assert have.seek(target - base, whence) == want.seek(target - base, whence)
            length = draw.choice([0, 1, 7, 4096, CHUNK, 2 * CHUNK + 5])
            assert have.read(length) == want.read(length)
            assert have.tell() == want.tell()


def test_memory_stays_bounded_however_large_the_object(tmp_path: Path) -> None:
    reference = put(tmp_path, bytes(40 * CHUNK))

    tracemalloc.start()
    with opened(reference) as file:
        for index in range(40):
            file.seek(index * CHUNK + 5)
            file.read(10)
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 9 * CHUNK


@pytest.mark.parametrize("size", [1, CHUNK, 2 * CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("cut", [1, TAG - 1, TAG, TAG + 1, CHUNK + TAG, CHUNK + TAG + 1])
def test_a_truncated_object_does_not_open(tmp_path: Path, size: int, cut: int) -> None:
    reference = put(tmp_path, os.urandom(size))
    path = Path(reference.path)
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])

    with pytest.raises(VaultDamaged):
        opened(reference)


def test_what_was_appended_does_not_open(tmp_path: Path) -> None:
    reference = put(tmp_path, os.urandom(CHUNK))
    with Path(reference.path).open("ab") as file:
        file.write(bytes(CHUNK + TAG))

    with pytest.raises(VaultDamaged):
        opened(reference)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_an_altered_chunk_raises_when_it_is_read_and_the_others_still_read(tmp_path: Path, chunk: int) -> None:
    data = os.urandom(3 * CHUNK + 10)  # the fourth chunk is checked at opening
    reference = put(tmp_path, data)
    stored = bytearray(Path(reference.path).read_bytes())
    stored[len(MAGIC) + chunk * (CHUNK + TAG) + 77] ^= 1
    Path(reference.path).write_bytes(stored)

    with opened(reference) as file:
        for index in range(4):
            file.seek(index * CHUNK)
            if index == chunk:
                with pytest.raises(VaultDamaged):
                    file.read(10)
                file.seek(index * CHUNK)
                with pytest.raises(VaultDamaged):  # a whole chunk takes another way
                    file.read(CHUNK)
            else:
                assert file.read(10) == data[index * CHUNK : index * CHUNK + 10]


def test_chunks_in_another_order_are_not_read(tmp_path: Path) -> None:
    reference = put(tmp_path, os.urandom(3 * CHUNK))
    stored = Path(reference.path).read_bytes()
    one, two = (stored[len(MAGIC) + i * (CHUNK + TAG) :][: CHUNK + TAG] for i in range(2))
    Path(reference.path).write_bytes(stored[: len(MAGIC)] + two + one + stored[len(MAGIC) + 2 * (CHUNK + TAG) :])

    with opened(reference) as file, pytest.raises(VaultDamaged):
        file.read(1)


def test_an_object_cut_while_it_is_open_raises(tmp_path: Path) -> None:
    reference = put(tmp_path, os.urandom(3 * CHUNK))

    with opened(reference) as file:
        os.truncate(reference.path, CHUNK)
        with pytest.raises(VaultDamaged):
            file.readall()


@pytest.mark.parametrize("key", [bytes(32), bytes(31), b""])
def test_a_wrong_key_does_not_open(tmp_path: Path, key: bytes) -> None:
    reference = put(tmp_path, b"frame")

    with pytest.raises(VaultDamaged):
        VaultFile(reference.path, key)


@pytest.mark.parametrize("content", [b"", b"EWVAULT1", b"not a vault object at all", MAGIC + bytes(TAG)])
def test_other_files_do_not_open(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ew"
    path.write_bytes(content)

    with pytest.raises(VaultDamaged):
        VaultFile(path, bytes(32))
    with pytest.raises(VaultDamaged):
        VaultFile(tmp_path / "missing.ew", bytes(32))


def test_a_closed_object_gives_nothing_and_no_handle_stays_open(tmp_path: Path) -> None:
    reference = put(tmp_path, b"frame")
    before = len(os.listdir("/proc/self/fd"))

    buffered = open_object(reference.path, reference.data_key)
    buffered.read(2)
    buffered.close()
    buffered.close()
    with pytest.raises(VaultDamaged):
        VaultFile(reference.path, bytes(32))

    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError):
        buffered.read(1)


def test_impossible_positions_are_refused(tmp_path: Path) -> None:
    with opened(put(tmp_path, b"frame")) as file:
        with pytest.raises(ValueError):
            file.seek(-1)
        with pytest.raises(ValueError):
            file.seek(0, 9)
        assert not file.writable()
