"""Pictures as people have them: turned by EXIF, deep, transparent, cut off, in colour."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from monai.data import Dataset
from PIL import Image, ImageOps
from pydicom.uid import (
    UID,
)

from common.data.cxr.inputs import xray_cases
from common.data.cxr.reader import check_xray, read_xray
from common.data.datasets.case_loader import CaseLoader
from common.io.bad_input import BadInput
from common.transforms.xray_io import ReadXrayd
from tests.strangers.stored import CASES, needs_cases, pack, png, ramp, save, unit, xray

# ---- pictures -------------------------------------------------------------------------------------------------------


@needs_cases
def test_the_shared_pictures() -> None:
    turned, upright = (read_xray(CASES / "cxr" / name) for name in ("exif6.jpg", "exif_upright.png"))
    assert turned.size == turned.pixels.shape == upright.pixels.shape
    np.testing.assert_allclose(turned.pixels, upright.pixels, atol=0.05)
    colour, grey = (read_xray(CASES / "cxr" / name) for name in ("rgb16_12bit.png", "grey16_12bit.png"))
    np.testing.assert_array_equal(colour.pixels, grey.pixels)
    assert colour.bits == grey.bits == 12
    alpha = np.array(Image.open(CASES / "cxr" / "alpha_border.png"))[..., -1]
    assert (alpha == 0).any() and not read_xray(CASES / "cxr" / "alpha_border.png").pixels[alpha == 0].any()


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    """0 and 9 are no orientation; of PNG: https://github.com/opencv/opencv/issues/16579"""
    values = np.add.outer(np.arange(48) * 3, np.arange(80)).astype(np.uint8)
    values[:10, :10] = 255
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{kind}"
    Image.fromarray(values).save(path, exif=exif, quality=95)
    found = read_xray(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path))) / 255
    np.testing.assert_allclose(found.pixels, expected, atol=1e-6)
    assert found.size == expected.shape
    assert found.size == ((80, 48) if 5 <= orientation <= 8 else (48, 80))


def test_a_large_jpeg_is_turned_upright_when_it_is_decoded_smaller(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8), (200, 4))).save(tmp_path / "x.jpg", exif=exif)
    found = read_xray(tmp_path / "x.jpg", at_least=250)
    assert found.pixels.shape == (250, 50) and found.size == (1000, 200)


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_xray(tmp_path / "x.jpg").size == (48, 64)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colour_keeps_its_range(tmp_path: Path, channels: int) -> None:
    grey = ramp(100, 3000)
    array = np.repeat(grey[..., None], channels, axis=2)
    if channels % 2 == 0:
        array[..., -1] = 65535
    found = read_xray(png(tmp_path / "x.png", array))
    np.testing.assert_array_equal(found.pixels, read_xray(png(tmp_path / "grey.png", grey[..., None])).pixels)
    assert found.bits == 12


def test_deep_colours_become_the_grey_of_pillow(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
    found = read_xray(png(tmp_path / "x.png", array)).pixels
    shown = np.asarray(Image.open(tmp_path / "x.png").convert("L")) / 255  # of the upper bytes
    np.testing.assert_allclose(found, shown, atol=1.5 / 255)


@pytest.mark.parametrize("channels", [2, 4])
def test_deep_alpha_lies_on_black(tmp_path: Path, channels: int) -> None:
    array = np.repeat(ramp()[..., None], channels, axis=2)
    array[..., -1] = 65535
    array[:, :8, :-1], array[:, :8, -1] = 65535, 0
    found = read_xray(png(tmp_path / "x.png", array))
    assert not found.pixels[:, :8].any() and found.bits == 12


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "L", "P", "RGB"])
def test_what_is_transparent_is_black(tmp_path: Path, mode: str) -> None:
    """By an alpha channel, or by a colour that stands for nothing."""
    grey = ramp(20, 220).astype(np.uint8)
    grey[:, :8] = 255
    if mode in ("LA", "RGBA"):
        image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray((grey < 255).astype(np.uint8) * 255)])
        image.convert(mode).save(tmp_path / "x.png")
    elif mode == "PA":
        Image.fromarray(grey).convert("P").save(tmp_path / "x.png", transparency=bytes([255] * 255 + [0]))
    else:
        key = (255, 255, 255) if mode == "RGB" else 255
        Image.fromarray(grey).convert(mode).save(tmp_path / "x.png", transparency=key)
    expected = np.where(grey == 255, 0, grey) / 255
    np.testing.assert_allclose(read_xray(tmp_path / "x.png").pixels, expected, atol=1e-6)


def test_half_transparent_is_half_as_bright(tmp_path: Path) -> None:
    grey = ramp(20, 220).astype(np.uint8)
    image = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (64, 48), 128)])
    image.save(tmp_path / "x.png")
    np.testing.assert_allclose(read_xray(tmp_path / "x.png").pixels, grey / 255 * 128 / 255, atol=0.6 / 255)


def test_a_deep_grey_that_stands_for_nothing(tmp_path: Path) -> None:
    grey = ramp(100, 3000)
    grey[:, :8] = 4095
    path = png(tmp_path / "x.png", grey[..., None], (b"tRNS", struct.pack(">H", 4095)))
    assert not read_xray(path).pixels[:, :8].any()


# ---- half an image --------------------------------------------------------------------------------------------------


def smooth() -> np.ndarray:
    waves = np.sin(np.arange(400) / 17)[:, None] * np.sin(np.arange(360) / 11) + np.sin(np.arange(360) / 5)
    return (unit(waves) * 250 + np.random.default_rng(0).integers(0, 5, (400, 360))).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("damage", ["cut", "cut, ended", "zeros", "zeros, ended", "ones, ended"])
def test_half_a_jpeg_is_refused(tmp_path: Path, damage: str, options: dict[str, object]) -> None:
    """A copy that broke off, with or without the end that a recovery tool or a full disk put there."""
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth()).save(path, quality=90, **options)
    data = path.read_bytes()
    half = data[: len(data) // 2]
    fill = {"z": bytes(len(half) // 8), "o": b"\xff" * len(half)}.get(damage[0], b"")
    path.write_bytes(half + fill + b"\xff\xd9" * damage.endswith("ended"))
    for read in (read_xray, lambda path: read_xray(path, at_least=100), lambda path: check_xray(path, deep=True)):
        with pytest.raises(BadInput, match="is a damaged JPEG"):
            read(path)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0, "quality": 95}, {"progressive": True}], ids=str)
def test_a_mid_grey_strip_at_the_bottom_is_no_damage(tmp_path: Path, options: dict[str, object]) -> None:
    values = smooth()
    values[-64:] = 128
    Image.fromarray(values).save(tmp_path / "x.jpg", **options)
    assert (read_xray(tmp_path / "x.jpg").pixels[-8:] == np.float32(128 / 255)).all()
    assert read_xray(tmp_path / "x.jpg", at_least=100).size == (400, 360)


def test_a_bad_x_ray_is_its_own_row_and_not_the_end_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "k", "z"):
        Image.fromarray(smooth()).save(folder / f"{name}.png")
    Image.new("L", (64, 64), 7).save(folder / "constant.png")
    save(folder / "flat.dcm", xray(np.full((48, 64), 500, np.uint16)))
    save(folder / "padding.dcm", xray(PixelPaddingValue=0, PixelPaddingRangeLimit=4095))
    Image.fromarray(smooth()).save(folder / "half.jpg", quality=90)
    for name, start in (("half.jpg", "half.jpg"), ("hole.png", "a.png")):
        data = (folder / start).read_bytes()
        middle = len(data) // 2
        rest = data[middle + 40 :] if name == "hole.png" else b""
        (folder / name).write_bytes(data[:middle] + bytes(40) * bool(rest) + rest)
    cases = xray_cases(folder, labels=())
    loader = CaseLoader(Dataset(cases, ReadXrayd("image", size=64)), cases, collate_fn=list)
    read = [batch[0]["case"] for batch in loader]
    assert read == ["a", "k", "z"]
    reasons = {Path(row["path"]).name: row["reason"] for row in loader.excluded}
    assert {name: reason.split(",")[0].split(" (")[0] for name, reason in reasons.items()} == {
        "constant.png": "is constant",
        "flat.dcm": "is constant",
        "half.jpg": "is a damaged JPEG",
        "hole.png": "is a damaged PNG",
        "padding.dcm": "holds nothing but padding",
    }


# ---- colour ---------------------------------------------------------------------------------------------------------


def test_colour_of_a_compressed_x_ray_is_converted_once(tmp_path: Path) -> None:
    """pydicom 3 converts by itself, pydicom 2 does not: https://github.com/pydicom/pydicom/issues/2118"""
    values = np.zeros((48, 64, 3), np.uint8)
    values[..., 0], values[:24, :, 1] = 200, np.arange(64) * 3
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=98, subsampling=0)
    ds = xray()
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 48, 64, 3, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 8, 8, 7, "YBR_FULL_422"
    pack(ds, UID("1.2.840.10008.1.2.4.50"), buffer.getvalue())
    expected = np.asarray(Image.fromarray(values).convert("L")) / 255
    np.testing.assert_allclose(read_xray(save(tmp_path / "x.dcm", ds)).pixels, expected, atol=0.02)
