"""A small PACS: files what it gets.

Responsible for C-ECHO and C-STORE of every storage class (pynetdicom), one file per SOP Instance UID under
study/series/instance, durable before Success is answered, and a count of what came once and what came again. It is a
simulated peer for the demonstration and the tests: no query, no retrieval, no users. A hospital has a real one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from edgeward.device import process

_TAGS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UID = re.compile(r"^[0-9.]{1,64}$")
SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000

log = logging.getLogger("edgeward.device.pacs")  # also when run as __main__


@dataclass(slots=True)
class Counts:
    """What has arrived: different instances, instances that came again, of those with other content, and refusals."""

    unique: int = 0
    repeated: int = 0
    differing: int = 0
    refused: int = 0
    echoes: int = 0


class Archive:
    """The folder of files. Keeps the first of several objects with the same SOP Instance UID.

    Parameters
    ----------
    folder
        Created if need be; what lies there from an earlier run counts as present.
    state
        A JSON file with the counts, replaced after each arrival; ``None``: none.
    """

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._state = state
        self._lock = threading.Lock()
        self._paths = {path.stem: path for path in folder.rglob("*.dcm")}
        self.counts = Counts(unique=len(self._paths))
        self._write_state()

    def store(self, encoded: bytes) -> int:
        """File one object, given as the bytes of a DICOM file, and return the status to answer.

        It is on the disk (file and folder synced) when Success is returned.
        """
        try:
            head = dcmread(BytesIO(encoded), stop_before_pixels=True, specific_tags=list(_TAGS))
            parts = tuple(str(head[tag].value) for tag in _TAGS)
            requested = str(head.file_meta.MediaStorageSOPInstanceUID)
        except (InvalidDicomError, AttributeError, ValueError, KeyError, EOFError, OSError):
            return self._refuse(CANNOT_UNDERSTAND)
        if parts[2] != requested or not all(_UID.match(part) for part in parts):  # they become a path
            return self._refuse(MISMATCH)
        study, series, instance = parts
        with self._lock:
            known = self._paths.get(instance)
            if known is not None:
                self.counts.repeated += 1
                if known.read_bytes() != encoded:
                    self.counts.differing += 1
                self._write_state()
                return SUCCESS
            target = self._folder / study / series / f"{instance}.dcm"
            try:
                _write_durably(target, encoded, self._folder)
            except OSError as error:
                log.warning("an object cannot be filed: %s", error.strerror)
                self.counts.refused += 1
                return OUT_OF_RESOURCES
            self._paths[instance] = target
            self.counts.unique += 1
            self._write_state()
        return SUCCESS

    def echo(self) -> int:
        """Count a C-ECHO."""
        with self._lock:
            self.counts.echoes += 1
        return SUCCESS

    def _refuse(self, status: int) -> int:
        with self._lock:
            self.counts.refused += 1
            self._write_state()
        return status

    def _write_state(self) -> None:
        if self._state is None:
            return
        temporary = self._state.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(self.counts)), encoding="utf-8")
        temporary.replace(self._state)


def _write_durably(target: Path, data: bytes, root: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    for folder in (target.parent, target.parent.parent, root):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def serve(
    archive: Archive, host: str, port: int, ae_title: str, context: ssl.SSLContext | None = None
) -> ThreadedAssociationServer:
    """Start to serve `archive` in threads of this process and return the server.

    Parameters
    ----------
    port
        0 chooses a free one: see ``server_address`` of what is returned.
    context
        TLS; ``None``: plain DICOM.

    Raises
    ------
    OSError
        If the address cannot be bound.
    """
    entity = AE(ae_title=ae_title)
    for storage in AllStoragePresentationContexts:
        entity.add_supported_context(storage.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(Verification)
    entity.maximum_associations = 32
    entity.maximum_pdu_size = 131_072
    entity.network_timeout = 60.0
    return entity.start_server(
        (host, port),
        block=False,
        ssl_context=context,
        evt_handlers=[
            (evt.EVT_C_STORE, lambda event: archive.store(event.encoded_dataset())),
            (evt.EVT_C_ECHO, lambda _event: archive.echo()),
            (evt.EVT_CONN_OPEN, _no_delay),
        ],
    )


def _no_delay(event: evt.Event) -> None:
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeward device simulate pacs",
        description="A small PACS for demonstrations: files every object under DIR/study/series/instance.dcm,\n"
        "durably, before it answers Success. An instance that comes again is counted, and the first one kept.",
        epilog="""\
examples:
  edgeward device simulate pacs --dir pacs --port 11113
  edgeward device simulate pacs --dir pacs --port 0 --json state.json     # a free port, printed on the first line""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=Path, required=True, help="where files go")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=11113, help="port to listen on (default 11113; 0: a free one)")
    parser.add_argument("--ae-title", default="PACS", help="application entity title (default PACS)")
    parser.add_argument(
        "--tls",
        type=Path,
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="serve DICOM over TLS 1.3 with these PEM files, to clients whose certificate the authority issued",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the counts in FILE, as JSON")
    process.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the PACS until it is told to stop. Returns 0, or 2 when it cannot start."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port}: allowed are 0 to 65535")
    process.begin(arguments, "pacs")
    stopping = process.stop_on_signal()
    try:
        context = process.server_context(*arguments.tls) if arguments.tls else None
        archive = Archive(arguments.dir, arguments.json)
        server = serve(archive, arguments.host, arguments.port, arguments.ae_title, context)
    except OSError as error:
        print(f"edgeward: the PACS cannot start: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"host": arguments.host, "port": server.server_address[1]}), flush=True)
    while not stopping.wait(60.0):
        pass
    threading.Timer(1.5, lambda: os._exit(0)).start()  # whoever still talks is cut off; what was acknowledged is filed
    server.shutdown()
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
