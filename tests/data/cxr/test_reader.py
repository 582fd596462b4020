from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_voi_lut

from common.data.cxr.reader import check_xray, read_xray, xray_kind
from common.data.virtual.patient import make_virtual_patient
from common.data.virtual.study import virtual_study
from common.data.virtual.xray import VirtualXray, make_virtual_xray
from common.io.bad_input import BadInput
from tests.data.cxr.dicom_xray import write_dicom_xray

ORACLES = Path(__file__).parents[3].parent / "shared" / "data" / "oracles" / "images"


def grey(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows * 3 + columns).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture(scope="module")
def virtual() -> VirtualXray:
    return make_virtual_xray(make_virtual_patient(3, (16, 32, 32), (9.0, 10.0, 11.0)), 64)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_every_kind_of_8_bit_png_is_the_same_grey(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(grey()).convert(mode))
    xray = read_xray(path)
    assert xray.pixels.dtype == np.float32 and xray.pixels.shape == xray.size == (48, 64)
    np.testing.assert_allclose(xray.pixels, grey() / 255, atol=1e-6)
    assert xray.bits == 8 and xray.spacing is None and xray.source == path
    assert xray.photometric == ("MONOCHROME2" if mode in ("L", "LA") else "RGB")


def test_a_transparent_pixel_is_black(tmp_path: Path) -> None:
    """What a viewer would not show is no part of the image, whatever colour lies under it."""
    opaque = grey() > 60
    image = Image.merge("LA", (Image.fromarray(grey()), Image.fromarray(opaque.astype(np.uint8) * 255)))
    found = read_xray(save(tmp_path / "x.png", image)).pixels
    np.testing.assert_allclose(found, grey() * opaque / 255, atol=1e-6)


@pytest.mark.parametrize(("top", "bits"), [(200, 8), (1000, 10), (4095, 12), (16000, 14), (65535, 16)])
def test_16_bit_png_is_scaled_by_the_bits_it_uses(tmp_path: Path, top: int, bits: int) -> None:
    stored = np.linspace(0, top, 48 * 64).reshape(48, 64).astype(np.uint16)
    xray = read_xray(save(tmp_path / "x.png", Image.fromarray(stored)))
    assert xray.bits == bits
    np.testing.assert_allclose(xray.pixels, stored / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_what_pillow_decodes(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(grey()).convert(mode), quality=95)
    np.testing.assert_allclose(read_xray(path).pixels, np.asarray(Image.open(path).convert("L")) / 255, atol=2.1 / 255)


def test_a_large_jpeg_is_decoded_no_smaller_than_asked(tmp_path: Path) -> None:
    smooth = Image.fromarray(grey(8, 8)).resize((800, 600), Image.Resampling.BICUBIC)
    path = save(tmp_path / "x.jpg", smooth, quality=95)
    for at_least, shape in {
        None: (600, 800),
        800: (600, 800),
        400: (300, 400),
        399: (300, 400),
        150: (150, 200),
    }.items():
        xray = read_xray(path, at_least)
        assert xray.pixels.shape == shape and xray.size == (600, 800)
    small = np.asarray(smooth.resize((200, 150), Image.Resampling.BOX)) / 255
    np.testing.assert_allclose(read_xray(path, 200).pixels, small, atol=0.02)


def test_the_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(grey()))
    for name in ("x.dcm", "x"):
        assert xray_kind(path.rename(tmp_path / name)) == "png"
        path = tmp_path / name
        assert read_xray(path).size == (48, 64)


def test_both_senses_of_dicom_show_the_same_bright_bone(tmp_path: Path, virtual: VirtualXray) -> None:
    images = {}
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        path = tmp_path / f"{photometric}.dcm"
        write_dicom_xray(path, virtual, virtual_study(3), photometric)
        images[photometric] = read_xray(path)
        assert images[photometric].photometric == photometric and images[photometric].bits == 12
        assert images[photometric].spacing == pytest.approx((virtual.pixel_mm,) * 2, abs=1e-5)
    expected = virtual.image / np.iinfo(virtual.image.dtype).max
    np.testing.assert_allclose(images["MONOCHROME2"].pixels, expected, atol=2e-3)
    np.testing.assert_allclose(images["MONOCHROME1"].pixels, images["MONOCHROME2"].pixels, atol=1e-3)


def test_window_and_rescale_are_those_of_pydicom(tmp_path: Path, virtual: VirtualXray) -> None:
    path = tmp_path / "x.dcm"
    write_dicom_xray(path, virtual, virtual_study(3))
    ds = pydicom.dcmread(path)
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = 1500, 800, 2, -100
    ds.save_as(path)
    shown = apply_voi_lut(ds.pixel_array.astype(float) * 2 - 100, ds)
    expected = (shown - shown.min()) / (shown.max() - shown.min())
    assert (expected == 0).any() and (expected == 1).any()  # the window cuts on both sides
    np.testing.assert_allclose(read_xray(path).pixels, expected, atol=1e-5)


def test_dicom_without_window_spans_its_values(tmp_path: Path, virtual: VirtualXray) -> None:
    path = tmp_path / "x.dcm"
    write_dicom_xray(path, virtual, virtual_study(3))
    ds = pydicom.dcmread(path)
    del ds.WindowCenter, ds.WindowWidth
    ds.save_as(path)
    pixels, stored = read_xray(path).pixels, ds.pixel_array.astype(float)
    assert pixels.min() == 0 and pixels.max() == 1
    assert np.corrcoef(pixels.ravel(), stored.ravel())[0, 1] > 0.9999


def ramp_dicom(folder: Path, virtual: VirtualXray, **tags: object) -> tuple[Path, np.ndarray]:
    """Stored values rise from 1000 on the left to 1400; four columns on the right are 4095 where padding is told."""
    path, values = folder / "ramp.dcm", np.tile(np.linspace(1000, 1400, 64), (64, 1)).astype(np.uint16)
    if "PixelPaddingValue" in tags:
        values[:, -4:] = 4095
    write_dicom_xray(path, virtual, virtual_study(3))
    ds = pydicom.dcmread(path)
    for name in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, name)
    for name, value in tags.items():
        if name.startswith("PixelPadding"):
            ds.add_new(name, "US", value)
        else:
            setattr(ds, name, value)
    ds.Rows, ds.Columns = values.shape
    ds.PixelData = values.tobytes()
    ds.save_as(path)
    return path, values


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 1200, "WindowWidth": ""},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"VOILUTSequence": []},
        {"PixelPaddingValue": None},
    ],
    ids=lambda tags: " ".join(tags),
)
def test_a_dicom_tag_without_value_is_as_none(tmp_path: Path, virtual: VirtualXray, tags: dict) -> None:
    """A bug: a window that is there and empty made a sound image "constant"."""
    path, values = ramp_dicom(tmp_path, virtual, **tags)
    if "PixelPaddingValue" in tags:
        values[:, -4:] = 4095
    low, high = float(values.min()), float(values.max())
    np.testing.assert_allclose(read_xray(path).pixels, (values - low) / (high - low), atol=1e-5)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2895, "WindowWidth": 402}], ids=["no window", "window"])
def test_a_falling_rescale_slope_turns_dark_and_bright(tmp_path: Path, virtual: VirtualXray, window: dict) -> None:
    """A bug: with a window the image was "constant". What is rescaled to little is dark, whatever was stored."""
    path, values = ramp_dicom(tmp_path, virtual, RescaleSlope=-1, RescaleIntercept=4095, **window)
    expected = (1400 - values.astype(float)) / 400
    np.testing.assert_allclose(read_xray(path).pixels, expected, atol=0.01)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1200, "WindowWidth": 402}], ids=["no window", "window"])
def test_padding_is_black_and_does_not_count(
    tmp_path: Path, virtual: VirtualXray, photometric: str, window: dict
) -> None:
    """A bug: without a window, the value that fills the border squeezed the image into a tenth of the range."""
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 4095} | window
    path, values = ramp_dicom(tmp_path, virtual, **tags)
    rising = (values[:, :-4].astype(float) - 1000) / (1400 - 1000)
    pixels = read_xray(path).pixels
    top = 1.0 if window else rising.max()  # the window reaches to 1400, which lies under the padding
    shown = rising / top
    np.testing.assert_allclose(pixels[:, :-4], 1 - shown if photometric == "MONOCHROME1" else shown, atol=0.01)
    assert not pixels[:, -4:].any()
    ranged, _ = ramp_dicom(tmp_path, virtual, **tags | {"PixelPaddingValue": 4090, "PixelPaddingRangeLimit": 4095})
    np.testing.assert_array_equal(read_xray(ranged).pixels, pixels)


def test_padding_alone_is_no_image(tmp_path: Path, virtual: VirtualXray) -> None:
    path, _ = ramp_dicom(tmp_path, virtual, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    with pytest.raises(BadInput, match="holds nothing but padding"):
        read_xray(path)


def test_colour_dicom_is_made_grey(tmp_path: Path, virtual: VirtualXray) -> None:
    path = tmp_path / "x.dcm"
    write_dicom_xray(path, virtual, virtual_study(3))
    ds = pydicom.dcmread(path)
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 48, 64, 3, 0
    ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored, ds.HighBit = "RGB", 8, 8, 7
    ds.PixelData = np.repeat(grey()[..., None], 3, axis=2).tobytes()
    ds.save_as(path)
    xray = read_xray(path)
    np.testing.assert_allclose(xray.pixels, grey() / 255, atol=1e-5)
    assert xray.photometric == "RGB"


def _bad_files(folder: Path, virtual: VirtualXray) -> dict[str, tuple[Path, str]]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    found = {
        "empty": (folder / "empty.png", "is empty"),
        "text": (folder / "text.jpg", "expected a PNG, JPEG or DICOM"),
    }
    found["empty"][0].write_bytes(b"")
    found["text"][0].write_text("no image at all")
    for kind in ("png", "jpg"):
        whole = save(folder / f"whole.{kind}", Image.fromarray(noise)).read_bytes()
        for name, size in (("half", len(whole) // 2), ("head", 30)):
            path = folder / f"{name}.{kind}"
            path.write_bytes(whole[:size])
            found[f"{name} {kind}"] = (path, "is a damaged")
    found["constant"] = (save(folder / "c.png", Image.new("L", (64, 64), 7)), "constant, every pixel has the value 7")
    found["small"] = (save(folder / "s.png", Image.fromarray(noise[:9])), "has 9 x 64 pixels")
    found["bilevel"] = (save(folder / "b.png", Image.fromarray(noise > 99)), "of the kind '1'")
    dicom = folder / "whole.dcm"
    write_dicom_xray(dicom, virtual, virtual_study(3))
    half = folder / "half.dcm"
    half.write_bytes(dicom.read_bytes()[:-1000])
    found["half dicom"] = (half, "damaged DICOM")
    for name, tag, value, reason in (
        ("frames", "NumberOfFrames", 2, "has 2 frames"),
        ("sense", "PhotometricInterpretation", "MONOCHROME3", "'MONOCHROME3'"),
        ("spacing", "ImagerPixelSpacing", [0, 1], "pixel spacing 0, 1 mm"),
    ):
        ds = pydicom.dcmread(dicom)
        setattr(ds, tag, value)
        found[name] = (folder / f"{name}.dcm", reason)
        ds.save_as(found[name][0])
    for name, reason in (("pixels", "without PixelData"), ("flat", "is constant")):
        ds = pydicom.dcmread(dicom)
        if name == "pixels":
            del ds.PixelData
        else:
            ds.PixelData = b"\1" * len(ds.PixelData)
        found[name] = (folder / f"{name}.dcm", reason)
        ds.save_as(found[name][0])
    found["missing"] = (folder / "nothing.png", "cannot be read")
    found["folder"] = (folder, "cannot be read")
    return found


def test_bad_files_are_named(tmp_path: Path, virtual: VirtualXray) -> None:
    for name, (path, reason) in _bad_files(tmp_path, virtual).items():
        for read in (read_xray, lambda path: check_xray(path, deep=True)):
            with pytest.raises(BadInput) as error:
                read(path)
            assert reason in error.value.reason, name
            assert error.value.path == path
        if name != "constant":  # that takes a look at the pixels
            with pytest.raises(BadInput):
                check_xray(path)


def test_check_accepts_what_can_be_read(tmp_path: Path) -> None:
    for kind in ("png", "jpg"):
        path = save(tmp_path / f"x.{kind}", Image.fromarray(grey()))
        check_xray(path)
        path.write_bytes(path.read_bytes() + b"\0" * 10_000)  # bytes after the end harm nobody
        check_xray(path)


@pytest.mark.skipif(not ORACLES.is_dir(), reason="needs the sample X-rays beside the repository")
def test_real_samples() -> None:
    nih = read_xray(ORACLES / "nih_00000001_000.png")
    assert nih.size == nih.pixels.shape and nih.bits == 8
    dicom = read_xray(ORACLES / "Fake_MONOHR1.dcm")
    assert dicom.photometric == "MONOCHROME1" and 0 <= dicom.pixels.min() < dicom.pixels.max() <= 1
    stored = pydicom.dcmread(ORACLES / "Fake_MONOHR1.dcm").pixel_array
    assert np.corrcoef(dicom.pixels.ravel(), stored.ravel())[0, 1] < -0.5
    assert read_xray(ORACLES / "16747_3_1.jpg").pixels.ndim == 2
