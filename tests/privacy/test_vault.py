"""The vault's contract, which every implementation passes, and what is special to files."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeward.messages import ObjectRef
from edgeward.privacy import vault as vault_module
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.vault import FileVault, Vault, VaultDamaged, VaultError, VaultFull, read
from edgeward.privacy.vaultfile import CHUNK, MAGIC, TAG

SIZES = (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17)


class VaultContract:
    """What `Vault` promises. A subclass provides ``vault`` and ``stored_bytes``."""

    @pytest.fixture
    def vault(self, tmp_path: Path) -> Vault:
        raise NotImplementedError

    def stored_bytes(self, reference: ObjectRef) -> bytes:
        raise NotImplementedError

    def alter(self, reference: ObjectRef, data: bytes) -> None:
        raise NotImplementedError

    @pytest.mark.parametrize("size", SIZES)
    def test_what_is_put_is_what_opens(self, vault: Vault, size: int) -> None:
        data = os.urandom(size)

        stored = vault.put(data)

        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        assert read(reference.path, reference.data_key) == data
        assert stored.size == reference.size == size

    @pytest.mark.parametrize("cuts", [(0,), (10,), (CHUNK,), (CHUNK - 1, CHUNK + 1), (5, 5, 2 * CHUNK + 1)])
    def test_parts_are_stored_as_one(self, vault: Vault, cuts: tuple[int, ...]) -> None:
        data = os.urandom(2 * CHUNK + 99)
        edges = (0, *cuts, len(data))
        parts = [memoryview(data)[a:b] for a, b in itertools.pairwise(edges)]

        stored = vault.put(*parts)

        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        assert read(reference.path, reference.data_key) == data

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("piece", [1000, 131_060, 5 * CHUNK])
    def test_what_arrives_in_pieces_is_what_opens(self, vault: Vault, size: int, piece: int) -> None:
        data = os.urandom(size)
        intake = vault.begin()
        for at in range(0, size, piece):
            intake.write(memoryview(data)[at : at + piece])

        stored = intake.commit()
        intake.abort()  # does nothing any more

        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        assert read(reference.path, reference.data_key) == data
        assert stored.content == b"", "nobody promised to keep it"

    def test_bytes_may_be_put_where_they_belong(self, vault: Vault) -> None:
        data, intake = os.urandom(2 * CHUNK + 5), vault.begin()
        rest = memoryview(data)
        while rest:
            room = intake.room()
            count = min(len(room), len(rest), 70_001)
            room[:count] = rest[:count]
            intake.filled(count)
            rest = rest[count:]

        stored = intake.commit()

        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        assert read(reference.path, reference.data_key) == data

    @pytest.mark.parametrize("size", [0, 10, CHUNK, 3 * CHUNK + 17])
    def test_an_aborted_intake_leaves_nothing(self, vault: Vault, size: int) -> None:
        intake = vault.begin()
        intake.write(bytes(size))

        intake.abort()
        intake.abort()

        assert vault.sweep(lambda _: False) == (0, 0)
        with pytest.raises(VaultError):
            intake.commit()

    @pytest.mark.parametrize("size", [0, 5000, 300_000, CHUNK + 1])
    def test_a_journalled_object_comes_back_from_what_the_journal_keeps(self, vault: Vault, size: int) -> None:
        data, intake = os.urandom(size), vault.begin()
        intake.write(data)

        stored = intake.commit(journalled=True)

        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        assert read(reference.path, reference.data_key) == data, "it can be read at once"
        vault.settle()
        if stored.content:
            assert self.stored_bytes(reference) == stored.content
            vault.erase(stored.object_id)
            vault.restore(stored.object_id, stored.content)
            vault.restore(stored.object_id, stored.content)
        assert read(reference.path, reference.data_key) == data
        assert size >= CHUNK or stored.content

    def test_the_same_bytes_twice_are_two_objects_under_two_keys(self, vault: Vault) -> None:
        one, two = vault.put(b"frame"), vault.put(b"frame")

        first = vault.reference(one.object_id, one.wrapped_key, one.size)
        second = vault.reference(two.object_id, two.wrapped_key, two.size)
        assert first.object_id != second.object_id
        assert first.data_key != second.data_key
        assert self.stored_bytes(first) != self.stored_bytes(second)

    def test_no_plaintext_is_at_rest(self, vault: Vault) -> None:
        marker = b"DOE^JANE-19700101"
        stored = vault.put(marker * 100)

        at_rest = self.stored_bytes(vault.reference(stored.object_id, stored.wrapped_key, stored.size))
        assert marker not in at_rest

    @pytest.mark.parametrize("position", [0, 7, 8, CHUNK // 2, CHUNK + TAG + 20, -1])
    def test_a_changed_bit_does_not_open(self, vault: Vault, position: int) -> None:
        stored = vault.put(os.urandom(CHUNK + 1000))
        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        data = bytearray(self.stored_bytes(reference))
        data[position] ^= 1
        self.alter(reference, bytes(data))

        with pytest.raises(VaultDamaged):
            read(reference.path, reference.data_key)

    @pytest.mark.parametrize("size", [100, CHUNK, 2 * CHUNK, 2 * CHUNK + 100])
    def test_a_truncated_or_extended_object_does_not_open(self, vault: Vault, size: int) -> None:
        stored = vault.put(os.urandom(size))
        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        whole = self.stored_bytes(reference)
        edges = {len(MAGIC) + index * (CHUNK + TAG) for index in range(size // CHUNK + 1)}
        lengths = {0, 4, 8, 8 + TAG - 1, len(whole) - 1} | {edge for edge in edges if edge < len(whole)}

        for altered in [*(whole[:length] for length in sorted(lengths)), whole + b"\0", whole + whole[8:]]:
            self.alter(reference, altered)
            with pytest.raises(VaultDamaged):
                read(reference.path, reference.data_key)

    def test_exchanged_chunks_do_not_open(self, vault: Vault) -> None:
        stored = vault.put(os.urandom(3 * CHUNK))
        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        whole, step = self.stored_bytes(reference), CHUNK + TAG
        first, second, third = (whole[8 + step * n : 8 + step * (n + 1)] for n in range(3))
        self.alter(reference, whole[:8] + second + first + third)

        with pytest.raises(VaultDamaged):
            read(reference.path, reference.data_key)

    def test_another_objects_key_does_not_open_it(self, vault: Vault) -> None:
        one, two = vault.put(b"one"), vault.put(b"two")
        first = vault.reference(one.object_id, one.wrapped_key, one.size)
        second = vault.reference(two.object_id, two.wrapped_key, two.size)

        with pytest.raises(VaultDamaged):
            read(first.path, second.data_key)
        with pytest.raises(WrongKey):
            vault.reference(one.object_id, two.wrapped_key, one.size)

    def test_an_erased_object_is_gone_and_erasing_again_is_no_error(self, vault: Vault) -> None:
        stored = vault.put(b"frame")
        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)

        vault.erase(stored.object_id)
        vault.erase(stored.object_id)

        with pytest.raises(VaultDamaged):
            read(reference.path, reference.data_key)

    def test_the_sweep_removes_only_what_nobody_knows(self, vault: Vault) -> None:
        kept, orphan = vault.put(b"kept"), vault.put(b"orphan")

        removed = vault.sweep(lambda object_id: object_id == kept.object_id)

        assert removed == (0, 1)
        reference = vault.reference(kept.object_id, kept.wrapped_key, kept.size)
        assert read(reference.path, reference.data_key) == b"kept"
        gone = vault.reference(orphan.object_id, orphan.wrapped_key, orphan.size)
        with pytest.raises(VaultDamaged):
            read(gone.path, gone.data_key)


class TestFileVault(VaultContract):
    @pytest.fixture
    def vault(self, tmp_path: Path) -> Vault:
        return FileVault(tmp_path / "vault", SiteKey(os.urandom(32)))

    def stored_bytes(self, reference: ObjectRef) -> bytes:
        return Path(reference.path).read_bytes()

    def alter(self, reference: ObjectRef, data: bytes) -> None:
        Path(reference.path).write_bytes(data)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("step", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch, step: str, code: int) -> None:
    vault = FileVault(tmp_path, SiteKey(os.urandom(32)))

    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(vault_module.os, step, full)
    with pytest.raises(VaultFull):
        vault.put(os.urandom(2 * CHUNK))
    monkeypatch.undo()

    assert files(tmp_path) == []


def test_the_room_that_must_stay_free_is_kept(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free_mb = disk.f_bavail * disk.f_frsize >> 20

    with pytest.raises(VaultFull):
        FileVault(tmp_path, SiteKey(os.urandom(32)), min_free_mb=free_mb + 1000).put(b"frame")

    assert files(tmp_path) == []


def test_object_ids_cannot_leave_the_vault(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault", SiteKey(os.urandom(32)))
    victim = tmp_path / "victim.ew"
    victim.write_bytes(b"precious")

    for object_id in ("../victim", "", "..", "a" * 31 + "/", "A" * 32):
        with pytest.raises(vault_module.VaultError):
            vault.erase(object_id)

    assert victim.exists()


WRITER = """
import os, sys
from pathlib import Path
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault
vault = FileVault(Path(sys.argv[1]), SiteKey(bytes(32)))
while True:
    data = os.urandom(300_000)
    stored = vault.put(data)
    print(stored.object_id, stored.wrapped_key.hex(), data[:16].hex(), flush=True)
"""


@pytest.mark.fault
def test_whatever_was_put_before_a_kill_opens_and_the_sweep_clears_the_rest(tmp_path: Path) -> None:
    acknowledged: dict[str, tuple[str, str]] = {}
    for stop_after in (1, 3, 7):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(stop_after):
                object_id, wrapped, head = writer.stdout.readline().split()
                acknowledged[object_id] = (wrapped, head)
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout.read().splitlines():
                if len(fields := line.split()) == 3:
                    acknowledged[fields[0]] = (fields[1], fields[2])

    vault = FileVault(tmp_path, SiteKey(bytes(32)))
    vault.sweep(acknowledged.__contains__)

    assert {path.stem for path in files(tmp_path)} == set(acknowledged)
    for object_id, (wrapped, head) in acknowledged.items():
        reference = vault.reference(object_id, bytes.fromhex(wrapped), 300_000)
        assert read(reference.path, reference.data_key)[:16].hex() == head
