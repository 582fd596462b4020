"""Pixels as strangers' files hold them: overlay bits, padding, transparency, orientation, windows, missing decoders.

`CASES` are the small inputs that failed once; the others are built here, of the same kinds.
"""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from common.data.ct.reader import read_ct
from common.data.cxr.reader import check_xray, read_xray, xray_kind
from common.io.bad_input import BadInput
from tests.data.ct.bad_ct import tiny_hu, tiny_series, write_series
from tests.strangers.stored import BOX, CASES, OVERLAY, needs_cases, pack, ramp, save, store, unit, xray

# ---- bits above BitsStored ------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_overlay_in_j2k() -> None:
    packed, native = (read_ct(CASES / "ct" / name) for name in ("j2k_overlay_bit12", "native_overlay_bit12"))
    np.testing.assert_array_equal(packed.hu, native.hu)
    assert packed.hu.max() == 727
    np.testing.assert_array_equal(
        read_xray(CASES / "cxr" / "j2k_overlay_bit12.dcm").pixels,
        read_xray(CASES / "cxr" / "no_extension" / "IM0001").pixels,
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_bits_above_the_stored_ones_are_no_part_of_a_hu(tmp_path: Path, syntax: UID, signed: bool) -> None:
    """https://github.com/pydicom/pydicom/issues/2260"""
    slices = tiny_series()
    for ds, hu in zip(slices, tiny_hu().transpose(2, 1, 0), strict=True):
        cells = (hu if signed else hu + 1024).astype(np.int32) & 0xFFF
        cells[BOX] |= OVERLAY
        store(ds, cells.astype(np.int16 if signed else np.uint16), syntax)
        ds.RescaleIntercept = 0 if signed else -1024
    np.testing.assert_array_equal(read_ct(write_series(tmp_path / "s", slices)).hu, tiny_hu())


def test_an_x_ray_in_the_upper_bits_of_its_cells(tmp_path: Path) -> None:
    """HighBit 15 of 12 stored bits: the value begins at bit 4, and the bits below it are an overlay."""
    ds = xray()
    store(ds, ramp() << 4 | 0b1010, ExplicitVRLittleEndian, 12, 15)
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, unit(ramp()), atol=1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
def test_overlay_bits_of_an_x_ray(tmp_path: Path, syntax: UID) -> None:
    cells = ramp()
    cells[BOX] |= OVERLAY | 1 << 15
    found = read_xray(save(tmp_path / "x.dcm", xray(cells, syntax))).pixels
    np.testing.assert_allclose(found, unit(ramp()), atol=1e-6)


# ---- padding --------------------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_padding_of_4095() -> None:
    hu = read_ct(CASES / "ct" / "pad4095_unsigned").hu
    assert hu.dtype == np.int16 and hu.max() == 727 and hu.min() == -1024
    assert (hu[0, 0] == -1024).all()


@pytest.mark.parametrize(
    ("tags", "cell"),
    [
        ({"PixelPaddingValue": 4095}, 4095),
        ({"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}, 4050),
        ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, 4000),
        ({"PixelPaddingValue": 65535}, 65535),
        ({"PixelPaddingValue": 63536, "PixelRepresentation": 1}, 63536),  # -2000 with the sign left out
        ({"PixelPaddingValue": -2000}, 63536),  # and put where there is none
        ({"PixelPaddingValue": 63536, "BitsStored": 12, "HighBit": 11}, 63536),  # more than the stored bits hold
    ],
    ids=str,
)
def test_padding_of_a_ct_is_air(tmp_path: Path, tags: dict[str, int], cell: int) -> None:
    """https://github.com/dgobbi/vtk-dicom/issues/173 and https://github.com/dcm4che/dcm4che/issues/1368"""
    slices = tiny_series()
    for ds in slices:
        cells = np.frombuffer(ds.PixelData, np.uint16).reshape(24, 20).copy()
        cells[:3] = cell
        ds.PixelData = cells.tobytes()
        for name, value in tags.items():
            if name.startswith("PixelPadding"):
                ds.add_new(name, "SS" if value < 0 else "US", value)
            else:
                setattr(ds, name, value)
    expected = tiny_hu().copy()
    expected[:, :3] = -1024
    hu = read_ct(write_series(tmp_path / "s", slices)).hu
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(hu, expected)


def test_a_slice_of_padding_alone_is_air(tmp_path: Path) -> None:
    slices = tiny_series()
    slices[3].PixelData = np.full((24, 20), 4095, np.uint16).tobytes()
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", 4095)
    assert (read_ct(write_series(tmp_path / "s", slices)).hu[:, :, 3] == -1024).all()


# ---- hints for a display --------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_window_without_width() -> None:
    np.testing.assert_array_equal(
        read_xray(CASES / "cxr" / "window_width_0.dcm").pixels,
        read_xray(CASES / "cxr" / "no_extension" / "IM0001").pixels,
    )


def look_up(depth: int = 12, data: list[int] | None = None) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    if data is not None:
        item.add_new("LUTData", "US", data)
    return pydicom.Sequence([item])


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": -400},
        {"WindowCenter": 2048, "WindowWidth": 1},  # black and white alone
        {"WindowCenter": 40, "WindowWidth": 20},  # all white
        {"WindowCenter": 60000, "WindowWidth": 400},  # all black
        {"WindowCenter": [2048, 2048], "WindowWidth": [0, 0]},
        {"WindowCenter": 2048, "WindowWidth": 400, "VOILUTFunction": "BROKEN"},
        {"WindowCenter": 2048, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": look_up()},  # a table without its data
        {"VOILUTSequence": look_up(data=[0] * 4096)},
        {"VOILUTSequence": look_up(depth=3, data=[0] * 4096)},
    ],
    ids=lambda tags: " ".join(f"{name} {value}" for name, value in tags.items() if "Sequence" not in name) or "table",
)
def test_a_hint_that_shows_nothing_does_not_spoil_an_x_ray(tmp_path: Path, tags: dict[str, object]) -> None:
    found = read_xray(save(tmp_path / "x.dcm", xray(**tags))).pixels
    np.testing.assert_allclose(found, unit(ramp()), atol=1e-6)


def test_the_second_window_is_taken_where_the_first_shows_nothing(tmp_path: Path) -> None:
    tags = {"WindowCenter": [2048, 2048.5], "WindowWidth": [0, 2001]}
    found = read_xray(save(tmp_path / "x.dcm", xray(**tags))).pixels
    np.testing.assert_allclose(found, ((ramp().astype(float) - 1048) / 2000).clip(0, 1), atol=1e-6)


def test_a_width_that_is_no_number(tmp_path: Path) -> None:
    path = save(tmp_path / "x.dcm", xray(WindowCenter=2048, WindowWidth="1234"))
    path.write_bytes(path.read_bytes().replace(b"1234", b"wide"))
    np.testing.assert_allclose(read_xray(path).pixels, unit(ramp()), atol=1e-6)


# ---- missing decoders and limits ------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_lossless_jpeg_names_the_extra_or_is_decoded_by_it() -> None:
    if pydicom.pixels.get_decoder(JPEGLosslessSV1).is_available:
        found, native = (read_xray(CASES / "cxr" / name) for name in ("jpeg_lossless.dcm", "no_extension/IM0001"))
        np.testing.assert_array_equal(found.pixels, native.pixels)
        return
    with pytest.raises(BadInput, match=r"compressed as JPEG Lossless.*thorax-bundles\[serve\]"):
        read_xray(CASES / "cxr" / "jpeg_lossless.dcm")


@pytest.mark.parametrize("syntax", [JPEGLSLossless, HTJ2KLossless, JPEGExtended12Bit], ids=lambda uid: uid.name)
def test_a_missing_decoder_names_the_extra(tmp_path: Path, syntax: UID) -> None:
    """JPEG Extended too, of which Pillow decodes 8 bits alone: https://github.com/pydicom/pydicom/issues/2009"""
    plugins = pydicom.pixels.get_decoder(syntax).available_plugins
    if set(plugins) - {"pillow"}:
        pytest.skip(f"{', '.join(plugins)} decode it here")
    ds = xray()
    pack(ds, syntax, bytes(range(64)))
    with pytest.raises(BadInput, match=r"no decoder for it is installed.*serve"):
        read_xray(save(tmp_path / "x.dcm", ds))
    slices = tiny_series()
    for ds in slices:
        pack(ds, syntax, bytes(range(64)))
    with pytest.raises(BadInput, match=r"slice_000.dcm is compressed as .*no decoder for it is installed.*serve"):
        read_ct(write_series(tmp_path / "s", slices))


@pytest.mark.parametrize("read", [read_xray, check_xray], ids=["read", "check"])
@pytest.mark.parametrize("limit", [2000, 1000], ids=["warned of", "refused by Pillow"])
def test_a_limit_of_pixels_is_said_to_be_one(tmp_path, monkeypatch, read, limit) -> None:
    """https://github.com/Project-MONAI/MONAILabel/issues/1230"""
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "x.png")
    save(tmp_path / "x.dcm", xray())
    save(tmp_path / "j2k.dcm", xray(syntax=JPEG2000Lossless))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for name in ("x.png", "x.dcm", "j2k.dcm"):
        with pytest.raises(BadInput, match=rf"pixels, more than the limit of {limit}") as caught:
            read(tmp_path / name)
        assert "damaged" not in str(caught.value)


# ---- files without preamble -----------------------------------------------------------------------------------------


def bare(ds: FileDataset, syntax: UID) -> bytes:
    """The data set alone, as archives before part 10 wrote it."""
    buffer = io.BytesIO()
    plain = pydicom.Dataset(ds)
    pydicom.dcmwrite(buffer, plain, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return buffer.getvalue()


@needs_cases
def test_the_shared_series_without_preamble() -> None:
    np.testing.assert_array_equal(
        read_ct(CASES / "ct" / "no_preamble").hu, read_ct(CASES / "ct" / "native_overlay_bit12").hu
    )


@pytest.mark.parametrize("how", ["implicit", "explicit", "meta without preamble", "mark without preamble"])
def test_dicom_without_preamble_or_name(tmp_path: Path, how: str) -> None:
    """https://github.com/pydicom/pydicom/issues/860 and https://github.com/pydicom/pydicom/issues/150"""
    slices = tiny_series()
    whole = xray()
    (tmp_path / "s").mkdir()
    for k, ds in enumerate([*slices, whole]):
        path = tmp_path / "s" / f"IM{k}" if ds is not whole else tmp_path / "IM"
        if how in ("implicit", "explicit"):
            path.write_bytes(bare(ds, ImplicitVRLittleEndian if how == "implicit" else ExplicitVRLittleEndian))
        else:
            path.write_bytes(save(path, ds).read_bytes()[132 if how.startswith("meta") else 128 :])
    np.testing.assert_array_equal(read_ct(tmp_path / "s").hu, tiny_hu())
    assert xray_kind(tmp_path / "IM") == "dicom"
    np.testing.assert_allclose(read_xray(tmp_path / "IM").pixels, unit(ramp()), atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"\x08\0\x05\0", b"case,path\na,b\n" * 99, bytes(999), b"\x08\0" * 500])
def test_other_bytes_are_no_dicom(tmp_path: Path, data: bytes) -> None:
    folder = write_series(tmp_path / "s")
    (folder / "IM12").write_bytes(data)
    with pytest.raises(BadInput, match="IM12 is not a DICOM file"):
        read_ct(folder)


# ---- from public threads; each input is made here --------------------------------------------------------------------


def test_a_data_set_that_names_no_transfer_syntax(tmp_path: Path) -> None:
    """https://github.com/pydicom/pydicom/issues/258 and https://github.com/vinbigdata-medical/vindr-cxr/issues/3"""
    path = save(tmp_path / "x.dcm", xray())
    ds = pydicom.dcmread(path)
    del ds.file_meta.TransferSyntaxUID
    ds.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    np.testing.assert_allclose(read_xray(path).pixels, unit(ramp()), atol=1e-6)


def test_ten_bits_at_the_top_of_sixteen(tmp_path: Path) -> None:
    """https://github.com/fo-dicom/fo-dicom/issues/138"""
    ds = xray()
    store(ds, (ramp() >> 2) << 6 | 0b101010, ExplicitVRLittleEndian, 10, 15)
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, unit(ramp() >> 2), atol=1e-6)


def test_eight_bits_of_sixteen_in_j2k(tmp_path: Path) -> None:
    """https://github.com/fo-dicom/fo-dicom/issues/1992"""
    values, buffer = ramp(20, 220).astype(np.uint8), io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    ds = xray(BitsStored=8, HighBit=7)
    pack(ds, JPEG2000Lossless, buffer.getvalue())
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, unit(values), atol=1e-6)


def test_the_colour_transform_of_j2k_is_undone_by_its_decoder(tmp_path: Path) -> None:
    """https://github.com/pydicom/pydicom/issues/1321"""
    values, buffer = np.zeros((48, 64, 3), np.uint8), io.BytesIO()
    values[..., 0], values[:24, :, 1] = 200, np.arange(64) * 3
    Image.fromarray(values).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    ds = xray(SamplesPerPixel=3, PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7)
    ds.PhotometricInterpretation = "YBR_RCT"
    pack(ds, JPEG2000Lossless, buffer.getvalue())
    expected = np.asarray(Image.fromarray(values).convert("L")) / 255
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, expected, atol=0.01)


@pytest.mark.parametrize(("vr", "first"), [("SS", -1024), ("US", 65536 - 1024)])
def test_a_look_up_table_that_begins_below_zero(tmp_path: Path, vr: str, first: int) -> None:
    """https://github.com/fo-dicom/fo-dicom/issues/949 and https://github.com/cornerstonejs/cornerstone/pull/79"""
    table = look_up(data=list(range(4096)))
    table[0].add_new("LUTDescriptor", vr, [4096, first, 12])
    ds = xray(RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=table)
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, ramp() / 4095, atol=1e-6)


def test_a_window_of_width_one_at_zero(tmp_path: Path) -> None:
    """https://github.com/dcm4che/dcm4che/issues/1513"""
    path = save(tmp_path / "x.dcm", xray(WindowCenter=0, WindowWidth=1))
    np.testing.assert_allclose(read_xray(path).pixels, unit(ramp()), atol=1e-6)


def test_a_grey_picture_saved_with_four_channels_is_the_same(tmp_path: Path) -> None:
    """https://github.com/Project-MONAI/MONAI/issues/970"""
    image = Image.fromarray(ramp(20, 220).astype(np.uint8))
    image.save(tmp_path / "grey.png")
    image.convert("RGBA").save(tmp_path / "four.png")
    np.testing.assert_array_equal(*(read_xray(tmp_path / name).pixels for name in ("grey.png", "four.png")))
