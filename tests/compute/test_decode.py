import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless, generate_uid
from tests.support.imaging import test_file
from tests.support.objects import dataset, region, to_bytes
from tests.support.pixels import compressed

from edgeward.compute.colour import to_rgb
from edgeward.compute.decode import MAX_FRAME_PIXELS, DecodeError, decode_frame
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import FileVault, VaultDamaged

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (60, 80), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)


# ---------------------------------------- pixels


def test_grey_pixels_come_back_as_they_were_in_three_channels():
    frame = decode_frame(to_bytes(dataset(GREY)))

    assert frame.pixels.dtype == np.uint8
    assert (frame.pixels == GREY[:, :, None]).all()
    assert (frame.index, frame.frames, frame.modality) == (0, 1, "US")


def test_colour_pixels_come_back_as_they_were():
    assert (decode_frame(to_bytes(dataset(COLOUR))).pixels == COLOUR).all()


def test_colour_by_plane_is_the_same_picture():
    planes = dataset(COLOUR, PlanarConfiguration=1, PixelData=np.moveaxis(COLOUR, 2, 0).tobytes())

    assert (decode_frame(to_bytes(planes)).pixels == COLOUR).all()


def test_monochrome1_is_inverted():
    frame = decode_frame(to_bytes(dataset(GREY, PhotometricInterpretation="MONOCHROME1")))

    assert (frame.pixels[..., 0] == 255 - GREY).all()


def test_ybr_is_turned_into_rgb():
    red = np.array([[76, 85, 255]] * (40 * 50), np.uint8).reshape(40, 50, 3)

    pixels = decode_frame(to_bytes(dataset(red, PhotometricInterpretation="YBR_FULL"))).pixels

    assert np.abs(pixels.astype(int) - [254, 0, 0]).max() <= 2


def test_a_palette_is_applied():
    frame = decode_frame(test_file("examples_palette.dcm").read_bytes())

    assert frame.pixels.shape == (350, 800, 3)
    assert frame.pixels.max() > 200
    assert (frame.pixels.max(axis=2) != frame.pixels.min(axis=2)).any()


def test_sixteen_bits_keep_their_whole_range():
    ramp = np.linspace(300, 4000, 60 * 80).reshape(60, 80).astype(np.uint16)

    pixels = decode_frame(to_bytes(dataset(ramp, BitsStored=12, HighBit=11))).pixels[..., 0]

    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()


def test_a_window_is_applied():
    ramp = np.arange(4800, dtype=np.uint16).reshape(60, 80)

    pixels = decode_frame(to_bytes(dataset(ramp, WindowCenter=1000, WindowWidth=200, BitsStored=16))).pixels[..., 0]

    assert pixels.ravel()[800] == 0
    assert pixels.ravel()[1200] == 255
    assert 100 < pixels.ravel()[1000] < 155


def test_the_middle_frame_of_a_loop_is_taken_and_named():
    loop = np.stack([np.full((50, 60), 10 * i, np.uint8) for i in range(7)])

    frame = decode_frame(to_bytes(dataset(loop)))

    assert (frame.index, frame.frames) == (3, 7)
    assert (frame.pixels == 30).all()


def test_one_frame_of_a_compressed_loop_is_decoded():
    frame = decode_frame(test_file("examples_ybr_color.dcm").read_bytes())

    assert (frame.index, frame.frames, frame.pixels.shape) == (15, 30, (240, 320, 3))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("examples_jpeg2k.dcm", (480, 640)),
        ("examples_rgb_color.dcm", (240, 320)),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", (768, 1024)),
        ("US1_J2KR.dcm", (480, 640)),
        ("OBXXXX1A_rle.dcm", (600, 800)),
        ("color3d_jpeg_baseline.dcm", (480, 640)),
        ("gdcm-US-ALOKA-16_big.dcm", (480, 640)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64)),
        ("image_dfl.dcm", (512, 512)),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100)),
    ],
)
def test_real_files_of_every_usual_transfer_syntax_are_read(name, shape):
    frame = decode_frame(test_file(name).read_bytes())

    assert frame.pixels.shape == (*shape, 3)
    assert frame.pixels.std() > 1


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        return data


LOOP = np.random.default_rng(5).integers(0, 256, (60, 200, 300), dtype=np.uint8)


def test_of_a_long_native_loop_only_the_looked_at_frame_is_read():
    file = Counting(to_bytes(dataset(LOOP)))

    frame = decode_frame(file, 41)

    assert (frame.pixels == LOOP[41][:, :, None]).all()
    assert file.taken < 60_000 + 10_000


@pytest.mark.parametrize("extended", [False, True])
def test_of_a_long_compressed_loop_only_the_looked_at_frame_is_read(extended):
    streams = [imagecodecs.jpegls_encode(LOOP[n] // 32) for n in range(60)]
    file = Counting(compressed(".4.80", streams, LOOP[0], extended=extended))

    frame = decode_frame(file, 41)

    assert (frame.pixels == (LOOP[41] // 32)[:, :, None]).all()
    assert file.taken < len(streams[41]) + 10_000


def test_a_frame_of_a_vault_object_is_decoded_from_the_vault(tmp_path):
    vault = FileVault(tmp_path, SiteKey(bytes(32)))
    stored = vault.put(to_bytes(dataset(LOOP)))
    reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)

    with open_object(reference.path, reference.data_key) as file:
        assert (decode_frame(file, 59).pixels == LOOP[59][:, :, None]).all()
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    with pytest.raises(VaultDamaged), open_object(reference.path, reference.data_key) as file:
        decode_frame(file)


def test_an_altered_vault_object_is_told_as_such_and_not_as_a_bad_image(tmp_path):
    vault = FileVault(tmp_path, SiteKey(bytes(32)))
    stored = vault.put(to_bytes(dataset(LOOP)))
    reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
    broken = bytearray(stored.path.read_bytes())
    broken[(1 << 20) + 5000] ^= 1  # in the second chunk
    stored.path.write_bytes(broken)

    with pytest.raises(VaultDamaged), open_object(reference.path, reference.data_key) as file:
        decode_frame(file, 20)


@pytest.mark.parametrize("index", [-1, 60, 10**9])
def test_a_frame_that_is_not_there_is_refused(index):
    with pytest.raises(DecodeError, match="no frame"):
        decode_frame(to_bytes(dataset(LOOP)), index)


# ---------------------------------------- spacing and regions


def test_pixel_spacing_is_used_and_named():
    frame = decode_frame(to_bytes(dataset(GREY, PixelSpacing=[0.2, 0.3])))

    assert (frame.spacing_mm, frame.spacing_source) == ((0.2, 0.3), "PixelSpacing")


def test_the_scanners_calibration_comes_before_pixel_spacing():
    frame = decode_frame(
        to_bytes(dataset(GREY, PixelSpacing=[0.2, 0.3], SequenceOfUltrasoundRegions=region((5, 4, 74, 53))))
    )

    assert frame.spacing_mm == pytest.approx((0.2, 0.1))  # deltas are x 0.01 cm and y 0.02 cm
    assert frame.spacing_source == "SequenceOfUltrasoundRegions"
    assert frame.region == (5, 4, 75, 54)


@pytest.mark.parametrize(
    ("told", "aspect"), [([1, 1], 1.0), ([6, 5], 1.2), ([1, 0], 1.0), (["0", "0"], 1.0), (None, 1.0)]
)
def test_the_shape_of_a_pixel_is_known_without_millimetres(told, aspect):
    frame = decode_frame(to_bytes(dataset(GREY, **({"PixelAspectRatio": told} if told else {}))))

    assert (frame.spacing_mm, frame.aspect) == (None, aspect)


def test_without_calibration_there_is_no_spacing():
    frame = decode_frame(to_bytes(dataset(GREY)))

    assert (frame.spacing_mm, frame.spacing_source, frame.region) == (None, "", None)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [-1.0, 1.0], [1e6, 1e6]])
def test_impossible_spacing_is_not_believed(bad):
    assert decode_frame(to_bytes(dataset(GREY, PixelSpacing=bad))).spacing_mm is None


def test_a_region_in_seconds_gives_no_millimetres():
    time_axis = region((0, 0, 79, 59), PhysicalUnitsXDirection=4)

    assert decode_frame(to_bytes(dataset(GREY, SequenceOfUltrasoundRegions=time_axis))).spacing_mm is None


def test_a_region_beyond_the_frame_means_the_calibration_is_void():
    """A frame that was scaled after calibration, as in pydicom's reduced cine loop."""
    frame = decode_frame(test_file("examples_ybr_color.dcm").read_bytes())

    assert (frame.spacing_mm, frame.regions) == (None, ())


# ---------------------------------------- what is wrong is refused with a reason


def outcome(data):
    """Reason and frame, one of them empty; anything but a `DecodeError` fails the test."""
    try:
        return "", decode_frame(data)
    except DecodeError as error:
        return str(error), None


def cut(data, part):
    return data[: int(len(data) * part)]


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.95, 0.999])
def test_truncated_native_objects_are_refused(part):
    with pytest.raises(DecodeError):
        decode_frame(cut(to_bytes(dataset(GREY)), part))


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "OBXXXX1A_rle.dcm"])
def test_truncated_compressed_objects_never_crash(name, part):
    data = cut(test_file(name).read_bytes(), part)
    reason, frame = outcome(data)

    # A codec may deliver what had arrived; then at least the size is right.
    assert reason or frame.pixels.shape == decode_frame(test_file(name).read_bytes()).pixels.shape


@pytest.mark.parametrize("data", [b"", b"hello", bytes(5000), b"\xff" * 5000, b"PK\x03\x04" + bytes(3000)])
def test_what_is_not_dicom_is_refused(data):
    with pytest.raises(DecodeError):
        decode_frame(data)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm", "rtstruct.dcm"])
def test_objects_without_pixels_are_refused(name):
    with pytest.raises(DecodeError, match="no pixel data"):
        decode_frame(test_file(name).read_bytes())


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "outside"),
        ({"Rows": 0}, "outside"),
        ({"Rows": None}, "Rows"),
        ({"NumberOfFrames": 2_000_000_000}, "frames"),
        ({"NumberOfFrames": 5}, "truncated"),
        ({"Rows": 8000, "Columns": 8000}, "truncated"),
        ({"SamplesPerPixel": 4}, "samples"),
        ({"BitsAllocated": 24}, "bits"),
    ],
)
def test_absurd_declarations_are_refused_before_anything_is_allocated(attributes, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_frame(to_bytes(dataset(GREY, **attributes)))


def encapsulated(stream, syntax, pixels=GREY, **attributes):
    ds = dataset(pixels, **attributes)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    return to_bytes(ds)


@pytest.mark.parametrize("tag", ["RGB", "YBR_RCT", "YBR_FULL", "YBR_ICT"])
def test_the_transform_of_a_jpeg_2000_codestream_comes_before_the_tag(tag):
    stream = imagecodecs.jpeg2k_encode(COLOUR, codecformat="j2k", reversible=True, mct=True)

    frame = decode_frame(encapsulated(stream, JPEG2000Lossless, COLOUR, PhotometricInterpretation=tag))

    assert (frame.pixels == COLOUR).all()


def test_jpeg_2000_without_a_transform_is_what_the_tag_says():
    stream = imagecodecs.jpeg2k_encode(COLOUR, codecformat="j2k", reversible=True, mct=False)

    plain = decode_frame(encapsulated(stream, JPEG2000Lossless, COLOUR))
    converted = decode_frame(encapsulated(stream, JPEG2000Lossless, COLOUR, PhotometricInterpretation="YBR_FULL"))

    assert (plain.pixels == COLOUR).all()
    assert (converted.pixels == to_rgb(COLOUR, "YBR_FULL", 8)).all()


def coded(kind, size):
    out = io.BytesIO()
    Image.new("L", size).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
def test_a_codestream_larger_than_declared_is_refused_without_decoding(kind, syntax):
    with pytest.raises(DecodeError, match="compressed frame is 900x1000"):
        decode_frame(encapsulated(coded(kind, (1000, 900)), syntax))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize(
    "stream", [b"\0\0", b"\xff\xd8\xff\xdb", b"\xff\x4f\xff\x51\x00\x01", bytes(64), b"\xff" * 500]
)
def test_damaged_codestreams_are_refused(syntax, stream):
    with pytest.raises(DecodeError):
        decode_frame(encapsulated(stream, syntax))


def test_an_unknown_transfer_syntax_is_refused():
    ds = dataset(GREY)
    data = to_bytes(ds).replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.4.999\x00"[:20])
    with pytest.raises(DecodeError):
        decode_frame(data)


def deflated(payload):
    """A part 10 header that announces a deflated data set, followed by ``payload``."""
    uid = b"1.2.840.10008.1.2.1.99"
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(element)) + element + payload


def test_a_deflated_bomb_is_refused_without_inflating_it():
    pump = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(1 << 24)
    bomb = b"".join(pump.compress(block) for _ in range(70)) + pump.flush()
    assert len(bomb) < 2_000_000

    with pytest.raises(DecodeError, match="inflates"):
        decode_frame(deflated(bomb))


def test_sequences_nested_without_end_are_refused():
    data = to_bytes(dataset(GREY))
    nested = b""
    for _ in range(3000):
        nested += struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
            "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
        )
    head = data.index(struct.pack("<HH", 0x0028, 0x0002))
    with pytest.raises(DecodeError):
        decode_frame(data[:head] + nested + data[head:])


def test_reasons_contain_no_identity():
    ds = dataset(GREY, PatientName="Muster^Erika", PatientID="4711", StudyInstanceUID=generate_uid())
    data = to_bytes(ds)
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(132, len(data) - GREY.size, 6):
            broken[at] = rng.integers(0, 256)
        reason, _ = outcome(bytes(broken))
        assert "Muster" not in reason
        assert "4711" not in reason


def test_the_largest_accepted_frame_is_bounded():
    assert MAX_FRAME_PIXELS * 3 <= 256 * 1024 * 1024
