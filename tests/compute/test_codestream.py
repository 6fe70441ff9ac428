import io

import numpy as np
import pytest
from PIL import Image

from edgeward.compute.codestream import CodestreamError, read_header


def coded(kind, size=(70, 30), **options):
    out = io.BytesIO()
    Image.fromarray(np.zeros(size[::-1], np.uint8)).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "stream",
    [coded("JPEG"), coded("JPEG", progressive=True), coded("JPEG2000"), coded("JPEG2000", no_jp2=True)],
    ids=["baseline", "progressive", "jp2", "j2k"],
)
def test_size_is_read_from_the_header(stream):
    header = read_header(stream)

    assert (header.rows, header.columns, header.components, header.precision) == (30, 70, 1, 8)


def test_a_stream_without_a_size_is_not_judged():
    assert read_header(b"\x01\x00\x00\x00" + bytes(60)) is None


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_every_truncation_of_the_header_is_refused_or_read_rightly(kind):
    stream = coded(kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    for length in range(4, 200):
        try:
            assert read_header(stream[:length]).rows == 30
        except CodestreamError:
            continue


def test_a_header_that_loops_is_refused():
    with pytest.raises(CodestreamError):
        read_header(b"\xff\xd8\xff\xe0\x00\x00" * 50)
