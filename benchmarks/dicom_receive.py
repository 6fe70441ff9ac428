"""Receiving images over DICOM, side by side with the peers a hospital would run: `python benchmarks/dicom_receive.py`.

The sender is dcmtk's storescu, several of them for parallel associations. Receivers, each in a process of its own, one
at a time, in turns:

- ours: encrypted and synced before Success, through admission, vault and journal as in a gateway;
- ours, bare: the same with encryption and syncing left out (a switch of this benchmark, not a setting);
- ours, Python: ours without the compiled data path;
- floor: what no receiver that syncs can be faster than here: read, write into blocks that exist, one sync for all who
  wait, answer; no encryption, no file of its own, nothing decided or recorded;
- dcmtk storescp --fork; Orthanc; pynetdicom's default handler writing files.

Measured: images a second (from the first sender's start to the last one's end, their own start and the association
included), CPU of the receiver per image, and what 64 idle associations cost. Senders and receiver share the machine:
compare within one run only. Figures are medians of several rounds.

Prints Markdown tables; `--json FILE` writes the raw figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

KINDS = {"ct": "39 KB CT", "jpeg": "250 KB JPEG", "us": "2.36 MB raw US", "cine": "12.7 MB cine"}
RECEIVERS = ("ours", "ours, Python", "ours, bare", "floor", "storescp", "orthanc", "pynetdicom")
_AE = "BENCH"


# ------------------------------------------------------------ images


def image(kind: str, number: int) -> Dataset:
    """Return one image; its content differs from every other's."""
    rng = np.random.default_rng(number)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    syntax, sop_class = ExplicitVRLittleEndian, UltrasoundImageStorage
    dataset.PatientName, dataset.PatientID, dataset.Modality = "BENCH^MARK", f"P{number}", "US"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20260101", "120000", "A1"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    if kind == "us":
        dataset.Rows, dataset.Columns, dataset.PlanarConfiguration = 768, 1024, 0
        dataset.PixelData = rng.bytes(768 * 1024 * 3)
    elif kind == "cine":
        sop_class = UltrasoundMultiFrameImageStorage
        dataset.Rows, dataset.Columns, dataset.PlanarConfiguration, dataset.NumberOfFrames = 480, 640, 0, 14
        dataset.PixelData = rng.bytes(480 * 640 * 3 * 14)[: 480 * 640 * 3 * 14]
    elif kind == "jpeg":
        syntax = JPEGBaseline8Bit
        dataset.Rows, dataset.Columns, dataset.PlanarConfiguration = 768, 1024, 0
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.PixelData = encapsulate([b"\xff\xd8" + rng.bytes(250_000) + b"\xff\xd9"])
        dataset["PixelData"].is_undefined_length = True
    else:
        sop_class, dataset.Modality = CTImageStorage, "CT"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 138, 138, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelData = rng.bytes(138 * 138 * 2)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def write_images(folder: Path, kind: str, count: int, senders: int) -> list[Path]:
    """Write `count` images for each sender into a folder of its own."""
    folders = []
    for sender in range(senders):
        place = folder / f"{kind}-{senders}-{sender}"
        place.mkdir()
        for number in range(count):
            image(kind, sender * count + number).save_as(place / f"{number}.dcm", enforce_file_format=True)
        folders.append(place)
    return folders


# ------------------------------------------------------------ receivers


class Receiver:
    """A receiver in its own process."""

    def __init__(self, name: str, folder: Path, *, tls: Path | None = None) -> None:
        self.name, self.folder, self.tls = name, folder, tls
        folder.mkdir(parents=True)
        self.port = _free_port()
        self.log = (folder / "log.txt").open("ab")
        environment = {**os.environ, "TCP_NODELAY": "1"}  # dcmtk's and Orthanc's are 10 times slower without
        if name == "ours, Python":
            environment["EDGEWARD_COMPILED"] = "0"
        self.process = subprocess.Popen(self._command(), stdout=self.log, stderr=self.log, cwd=folder, env=environment)
        self._wait()

    def _command(self) -> list[str]:
        here = [sys.executable, str(Path(__file__).resolve()), "--receiver", self.name, "--port", str(self.port)]
        if self.name == "storescp":
            tls = _tls_arguments(self.tls, server=True) if self.tls else []
            return [
                _dcmtk("storescp"),
                "--fork",
                "-pdu",
                "131072",
                "+xa",
                *tls,
                "-od",
                str(self.folder),
                str(self.port),
            ]
        if self.name == "orthanc":
            settings = {
                "StorageDirectory": str(self.folder / "db"), "IndexDirectory": str(self.folder / "db"),
                "DicomPort": self.port, "DicomAet": _AE, "HttpServerEnabled": False, "DicomAlwaysAllowStore": True,
                "DicomThreadsCount": 8, "Plugins": [],
            }  # fmt: skip
            (self.folder / "orthanc.json").write_text(json.dumps(settings))
            return ["Orthanc", str(self.folder / "orthanc.json")]
        return [*here, "--folder", str(self.folder / "data"), *(["--tls-device", str(self.tls)] if self.tls else [])]

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start: {(self.folder / 'log.txt').read_text()[-2000:]}")

    def cpu_s(self) -> float:
        """CPU used so far, by it and by children that ended or live.

        storescp collects its ended children late: they count once it has.
        """
        end = time.monotonic() + 5
        while time.monotonic() < end and self._zombies():
            time.sleep(0.05)
        times = psutil.Process(self.process.pid).cpu_times()
        used = times.user + times.system + times.children_user + times.children_system
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used += sum(child.cpu_times()[:2])
        return used

    def _zombies(self) -> bool:
        if self.name != "storescp":
            return False
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.process.pid).children())
        return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        _discard(self.folder)


def _discard(folder: Path) -> None:
    """Free the disk but delete nothing before the end of the run.

    ext4 makes a file 100 microseconds slower to create where others were deleted within the last minute: whoever comes
    next would pay for it.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    folder.rename(folder.with_name(f"discarded-{time.monotonic_ns()}"))


def serve_ours(port: int, folder: Path, *, bare: bool, tls: Path | None) -> None:
    """Run our DICOM door alone, as a gateway does."""
    from edgeward import config
    from edgeward.gateway.dicom import DicomDoor
    from edgeward.gateway.quarantine import Quarantine
    from edgeward.gateway.reception import Reception
    from edgeward.home import Home
    from edgeward.privacy.journal import Journal
    from edgeward.privacy.keys import SiteKey
    from edgeward.privacy.registry import Registry
    from edgeward.privacy.setup import initialise
    from edgeward.privacy.vault import FileVault

    if bare:
        _leave_out_safety()
    home = Home(tls.parent.parent if tls else folder)
    if not tls:
        folder.mkdir(parents=True)
        initialise(home, config.Settings())
    door = {"name": "bench", "ae_title": _AE, "address": "127.0.0.1", "transport": "plain"}
    dicom = {"ae_title": _AE, "max_associations": 200, "port": port if tls else 0, "legacy_port": 0 if tls else port}
    settings = config.Settings.model_validate({"dicom": {**dicom, "legacy": [] if tls else [door]}})
    key = SiteKey.load(home)
    journal = Journal(folder / "journal.db", key)
    reception = Reception(FileVault(folder / "vault", key, 100), journal, key, settings.budgets)
    gate = DicomDoor(
        home,
        settings,
        reception=reception,
        registry=Registry(home),
        quarantine=Quarantine(journal),
        admitted=lambda _item, _new: None,
    )
    gate.open()
    asyncio.run(reception.keep_settling())


def serve_floor(port: int, folder: Path) -> None:
    """Read, write, sync, answer: with the compiled data path and nothing around it."""
    from edgeward.gateway import command as dimse
    from edgeward.gateway.association import MAX_PDU
    from edgeward.gateway.command import Command
    from edgeward.gateway.negotiation import read_request
    from edgeward.native import Code, Connection, Pages, Record, library, new_sync

    folder.mkdir(parents=True)
    lib, block, chunk, most = library(), 4096, 1 << 20, 64 << 20
    if lib is None:
        raise SystemExit("the compiled data path is missing: python -m edgeward.native.build")
    sync, place, lock = new_sync(lib), [0], threading.Lock()
    handle = os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    for at in range(0, most, chunk):
        os.pwrite(handle, Pages(chunk).view, at)
    os.fdatasync(handle)

    def somewhere(size: int) -> int:
        with lock:
            at = place[0] = place[0] if place[0] + size <= most else 0
            place[0] += size
        return at

    def serve(client: socket.socket) -> None:
        head = client.recv(6, socket.MSG_WAITALL)
        if len(head) < 6:
            return
        request = read_request(bytearray(head + client.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)))
        answer, _ = request.accept([], MAX_PDU)
        client.sendall(answer)
        ahead, first, rooms = Pages(1 << 16), Pages(block), [Pages(chunk + block), Pages(chunk + block)]
        conn, record = Connection(), None
        conn.ahead, conn.ahead_size, conn.handle, conn.limit = ahead.address, 1 << 16, client.fileno(), 1 << 32
        conn.idle_ms = conn.pdu_ms = 30_000
        for context in range(256):
            conn.syntax[context] = 1
        while True:
            conn.room, conn.room_size = rooms[0].address, chunk
            here = ctypes.addressof(conn)
            code = (
                lib.ew_exchange(here, ctypes.addressof(record) if record else None)
                if conn.answer_size
                else lib.ew_take(here)
            )
            record = None
            if code == Code.FULL:
                os.pwrite(handle, rooms[0].view[:chunk], somewhere(chunk))
                conn.filled = 0
            elif code == Code.MESSAGE:
                size = -(-conn.filled // block) * block + block
                record = Record(
                    ctypes.addressof(sync), somewhere(size), first.address, block,
                    rooms[0].address, conn.filled, chunk + block, None, handle,
                )  # fmt: skip
                rooms.reverse()
                uids = conn.sop_class[: conn.class_size].decode(), conn.sop_instance[: conn.instance_size].decode()
                said = dimse.store_answer(conn.context, Command.store(conn.message_id, *uids), 0, request.max_length)
                conn.answer, conn.answer_size = said, len(said)
            else:
                if code == Code.OTHER:  # an A-RELEASE-RQ
                    client.sendall(b"\x06\0\0\0\0\x04\0\0\0\0")
                client.close()
                return

    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def _leave_out_safety() -> None:
    """Take encryption and syncing away: for comparison with receivers that have neither."""
    from edgeward.privacy import vaultfile

    class Copy:
        def __init__(self, key: bytes) -> None:
            pass

        def encrypt_into(self, _nonce: bytes, data: memoryview, _bound: bytes, out: memoryview) -> None:
            out[: len(data)] = data

    vaultfile.AESGCM = Copy  # type: ignore[assignment,misc]
    os.fsync = lambda _handle: None  # type: ignore[assignment]
    from edgeward.privacy.database import Database

    connect = Database._connect

    def unsynced(self: Any) -> Any:
        db = connect(self)
        db.execute("PRAGMA synchronous = OFF")
        return db

    Database._connect = unsynced  # type: ignore[method-assign]


def serve_pynetdicom(port: int, folder: Path) -> None:
    """Run pynetdicom's storage example: the handler decodes and writes a file."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    folder.mkdir(parents=True)

    def store(event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    ae = AE(ae_title=_AE)
    ae.maximum_pdu_size, ae.maximum_associations = 131072, 100
    ae.supported_contexts = AllStoragePresentationContexts
    for sop_class in (UltrasoundImageStorage, UltrasoundMultiFrameImageStorage):
        ae.add_supported_context(sop_class, JPEGBaseline8Bit)
    ae.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


# ------------------------------------------------------------ senders


def send(folders: list[Path], port: int, kind: str, *, tls: Path | None, nodelay: bool) -> float:
    """Send every folder over an association of its own, at once; return the seconds that took."""
    for path in (path for folder in folders for path in folder.iterdir()):
        path.read_bytes()  # from memory: reading is not to be measured, and the disk is the receiver's
    option = "-xy" if kind == "jpeg" else "-xe"
    environment = {**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})}
    began = time.monotonic()
    senders = [
        subprocess.Popen(
            [
                _dcmtk("storescu"), "-aet", _AE, "-aec", _AE, "-pdu", "131072", "+sd", option,
                *(_tls_arguments(tls, server=False) if tls else []), "127.0.0.1", str(port), str(folder),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
        )
        for folder in folders
    ]  # fmt: skip
    for sender in senders:
        _, errors = sender.communicate()
        if sender.returncode:
            raise SystemExit(f"a sender failed ({sender.returncode}): {errors.decode()[-1000:]}")
    return time.monotonic() - began


def idle_cpu(port: int, count: int, seconds: float, receiver: Receiver) -> float:
    """Return percent of one core that idle associations cost."""
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
    from pynetdicom.presentation import build_context

    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title = request.called_ae_title = _AE
    context = build_context(UltrasoundImageStorage, ExplicitVRLittleEndian)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16382, "1.2.3"
    request.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ(request).encode()
    peers = []
    for _number in range(count):
        peer = socket.create_connection(("127.0.0.1", port), timeout=10)
        peer.sendall(pdu)
        if peer.recv(6)[:1] != b"\x02":
            break
        peers.append(peer)
    time.sleep(1.0)
    before, began = receiver.cpu_s(), time.monotonic()
    time.sleep(seconds)
    cost = 100 * (receiver.cpu_s() - before) / (time.monotonic() - began)
    for peer in peers:
        peer.close()
    return cost if len(peers) == count else float("nan")


# ------------------------------------------------------------ the run


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything and return the figures."""
    rounds: dict[str, list[tuple[float, float]]] = {}
    idle: dict[str, float] = {}
    tls_home = folder / "site"
    for tls in {None: [False], "also": [False, True], "only": [True]}[arguments.tls]:
        device = _enrol(tls_home) if tls else None
        names = [name for name in arguments.receivers if not tls or name in ("ours", "storescp")]
        for kind in arguments.kinds:
            for associations in arguments.associations:
                count = max(3, round(arguments.images[kind] / associations))
                folders = write_images(folder, kind, count, associations)
                for turn in range(arguments.rounds + 1):
                    for name in names:
                        receiver = Receiver(name, folder / "receiver", tls=device)
                        try:
                            before = receiver.cpu_s()
                            options = {"tls": device, "nodelay": not arguments.nagle}
                            seconds = send(folders, receiver.port, kind, **options)
                            cpu = receiver.cpu_s() - before
                        finally:
                            receiver.stop()
                        total = count * associations
                        if turn:  # the first one warms up
                            key = f"{'tls ' if tls else ''}{kind} {associations} {name}"
                            rounds.setdefault(key, []).append((total / seconds, 1000 * cpu / total))
                            print(f"{key}: {total / seconds:.0f}/s, {1000 * cpu / total:.2f} ms", file=sys.stderr)
                for place in folders:
                    shutil.rmtree(place)
    if arguments.idle:
        for name in arguments.receivers:
            receiver = Receiver(name, folder / "receiver")
            try:
                idle[name] = idle_cpu(receiver.port, 64, 5.0, receiver)
            finally:
                receiver.stop()
    figures = {
        key: {
            "images_per_s": statistics.median(rate for rate, _ in values),
            "cpu_ms_per_image": statistics.median(cpu for _, cpu in values),
            "rounds": values,
        }
        for key, values in rounds.items()
    }
    return {
        "figures": figures, "idle_64_cpu_percent": idle, "cores": os.cpu_count(), "machine": platform.platform(),
        "nagle": arguments.nagle,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    figures = result["figures"]
    lines = ["| images, associations | " + " | ".join(RECEIVERS) + " |", "|---|" + "---|" * len(RECEIVERS)]
    rows = dict.fromkeys(" ".join(key.split(" ")[: 3 if key.startswith("tls") else 2]) for key in figures)
    for row in rows:
        theirs = figures.get(f"{row} ours")
        cells = []
        for name in RECEIVERS:
            one = figures.get(f"{row} {name}")
            if one is None:
                cells.append("")
                continue
            ratio = f" ({theirs['images_per_s'] / one['images_per_s']:.2f}x)" if theirs and name != "ours" else ""
            cells.append(f"{one['images_per_s']:.0f}/s{ratio}, {one['cpu_ms_per_image']:.2f} ms")
        *tls, kind, associations = row.split(" ")
        lines.append(f"| {'TLS, ' if tls else ''}{KINDS[kind]}, {associations} | " + " | ".join(cells) + " |")
    lines += ["", "Images a second (how many times as many we take), CPU of the receiver per image."]
    if result["idle_64_cpu_percent"]:
        costs = ", ".join(f"{name} {cost:.1f} %" for name, cost in result["idle_64_cpu_percent"].items())
        lines += ["", f"64 idle associations, percent of one core: {costs}."]
    return "\n".join(lines)


def _enrol(home_folder: Path) -> Path:
    """Make a site and a device; return the folder with the device's certificate."""
    from edgeward import config
    from edgeward.home import Home
    from edgeward.privacy import identity
    from edgeward.privacy.setup import initialise

    home, settings = Home(home_folder), config.Settings()
    device = home_folder / "devices" / "bench"
    if not device.exists():
        initialise(home, settings)
        name, out = settings.site.name, home_folder / "devices"
        identity.enrol(home, name, ["bench"], kind="ultrasound", out=out, ae_title=_AE, addresses={})
    return device


def _tls_arguments(device: Path | None, *, server: bool) -> list[str]:
    assert device is not None
    kind = "+tls"
    arguments = [kind, str(device / "device.key"), str(device / "device.pem"), "+cf", str(device / "ca.pem")]
    return [*arguments, "-ic"] if server else arguments


def _dcmtk(name: str) -> str:
    return shutil.which(name, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin") or name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dicom-receive-") as name:
        yield Path(name)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--associations", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer images a round")
    parser.add_argument("--tls", nargs="?", const="also", choices=("also", "only"), help="also, or only, over TLS 1.3")
    parser.add_argument("--idle", action="store_true", help="also 64 idle associations")
    parser.add_argument("--nagle", action="store_true", help="senders as dcmtk's default has them: without TCP_NODELAY")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--receiver", choices=RECEIVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tls-device", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receiver == "floor":
        serve_floor(arguments.port, arguments.folder)
    elif arguments.receiver == "pynetdicom":
        serve_pynetdicom(arguments.port, arguments.folder)
    elif arguments.receiver:
        serve_ours(arguments.port, arguments.folder, bare=arguments.receiver == "ours, bare", tls=arguments.tls_device)
    else:
        arguments.images = {"ct": 800, "jpeg": 480, "us": 192, "cine": 48}
        arguments.images = {kind: round(count * arguments.scale) for kind, count in arguments.images.items()}
        with _folder() as folder:
            result = measure(arguments, folder)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1))
        print(table(result))


if __name__ == "__main__":
    main()
