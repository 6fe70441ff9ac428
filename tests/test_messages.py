"""Messages: what is decoded is what was encoded, and garbage is refused."""

from __future__ import annotations

import inspect
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward import messages as m


def all_types() -> list[type[m.Message]]:
    return [
        kind
        for _, kind in inspect.getmembers(m, inspect.isclass)
        if issubclass(kind, m.Message) and kind is not m.Message
    ]


def test_every_message_is_versioned_and_immutable() -> None:
    tags = []
    for kind in all_types():
        config = kind.__struct_config__
        name, _, version = str(config.tag).rpartition(".")
        assert name, kind
        assert version.isdigit(), f"{kind.__name__} has no version in its tag"
        assert config.frozen, f"{kind.__name__} is not frozen"
        tags.append(config.tag)
    assert len(set(tags)) == len(tags)


def test_a_message_survives_the_wire() -> None:
    finding = m.Finding(
        finding_id="f", item_id="i", sop_instance_uid="1.2", status="analysed", model="b", model_version="1",
        lesions=[m.Lesion(contour=[(1.5, 2.0), (3.0, 4.0)], box=(1, 2, 3, 4), long_axis=5, short_axis=2, area=7, unit="mm", probability=0.9)],
        probabilities={"benign": 0.25, "malignant": 0.75},
    )  # fmt: skip
    done = m.WorkDone(finding=finding, preview=b"\xff\xd8", preview_scale=0.5)
    assert m.decode_one_of(m.WorkReply, m.encode(done)) == done


def test_another_version_is_refused() -> None:
    data = msgspec.msgpack.encode({"t": "ok.2"})
    with pytest.raises(m.MessageError, match="ok"):
        m.decode(m.Ok, data)


def test_another_type_is_refused() -> None:
    with pytest.raises(m.MessageError):
        m.decode(m.WorkRequest, m.encode(m.Ok()))


def test_a_secret_key_is_not_in_a_refusal() -> None:
    data = m.encode(m.ObjectRef(object_id="x", path="/x", data_key=b"secret-key-bytes", size=1))
    with pytest.raises(m.MessageError) as caught:
        m.decode(m.Ok, data)
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_cleanly(data: bytes) -> None:
    for kind in (m.WorkRequest, m.Alarm, m.Finding):
        with pytest.raises(m.MessageError):
            m.decode(kind, data)


@given(st.integers(min_value=0, max_value=400))
def test_a_truncated_message_is_refused(cut: int) -> None:
    data = m.encode(m.Beds(at_ns=1, beds=[m.Bed(device_id="a", label="b", heart_rate=60.0)]))
    if cut < len(data):
        with pytest.raises(m.MessageError):
            m.decode(m.Beds, data[:cut])


_TOGETHER = """
import sys, threading
from edgeward import messages

sys.setswitchinterval(1e-6)
SOURCE = '''
class Inner(messages.Message, frozen=True, kw_only=True, tag="inner"):
    a: str
    b: list[int]
    c: dict[str, float] | None = None

class Outer(messages.Message, frozen=True, kw_only=True, tag="outer"):
    one: Inner
    more: list[Inner]
    d: str = ""
'''
for _ in range(60):
    made = {"messages": messages, "__name__": "edgeward.messages"}
    exec(SOURCE, made)
    inner = made["Inner"](a="x", b=[1], c={"y": 1.0})
    data = messages.encode(made["Outer"](one=inner, more=[inner, inner]))
    start = threading.Barrier(4)

    def read():
        start.wait()
        messages.decode(made["Outer"], data)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_a_type_is_first_decoded_by_several_threads_at_once_without_a_crash() -> None:
    ended = subprocess.run([sys.executable, "-c", _TOGETHER], capture_output=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr.decode()[-500:]
