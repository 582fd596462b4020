"""Stored values are made of their BitsStored bits, and padding is told by value and by range."""

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from common.data.dicom_pixels import stored_values
from common.io.bad_input import BadInput


def image(cells: np.ndarray, **tags: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *cells.shape, 1, "MONOCHROME2"
    bits = 8 * cells.dtype.itemsize
    ds.BitsAllocated, ds.PixelRepresentation = bits, int(cells.dtype.kind == "i")
    ds.BitsStored = tags.pop("BitsStored", bits)
    ds.HighBit = tags.pop("HighBit", ds.BitsStored - 1)
    ds.PixelData = cells.tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in tags.items():
        ds.add_new(name, "SS" if value < 0 else "US", value)
    return ds


@pytest.mark.parametrize(
    ("cell", "dtype", "stored", "high", "value"),
    [
        (0x1FFF, np.uint16, 12, 11, 0xFFF),
        (0xFFFF, np.uint16, 16, 15, 0xFFFF),
        (0x0FFF, np.int16, 12, 11, -1),
        (0x17FF, np.int16, 12, 11, 0x7FF),
        (-1, np.int16, 16, 15, -1),
        (0xABCD, np.uint16, 12, 15, 0xABC),
        (0x7FF0, np.int16, 12, 15, 0x7FF),
        (0x0FF0, np.uint16, 8, 11, 0xFF),
        (0x1F, np.uint8, 4, 3, 0xF),
        (0x1000FFFF, np.uint32, 24, 23, 0xFFFF),
    ],
)
def test_a_value_is_made_of_its_bits(cell, dtype, stored, high, value):
    cells = np.full((2, 4), cell, np.int64).astype(dtype)
    values, padding = stored_values("x", image(cells, BitsStored=stored, HighBit=high))
    assert (values == value).all() and values.dtype == dtype and padding is None


@pytest.mark.parametrize(
    ("tags", "where"),
    [
        ({}, []),
        ({"PixelPaddingValue": 5}, [5]),
        ({"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 7}, [5, 6, 7]),
        ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 5}, [5, 6, 7]),
        ({"PixelPaddingRangeLimit": 7}, []),
        ({"PixelPaddingValue": 99}, []),
    ],
    ids=str,
)
def test_padding_by_value_and_by_range(tags, where):
    values, padding = stored_values("x", image(np.arange(16, dtype=np.uint16).reshape(2, 8), **tags))
    found = [] if padding is None else values[padding].tolist()
    assert found == where


def test_values_of_no_known_syntax_are_named():
    ds = image(np.zeros((2, 2), np.uint16))
    del ds.file_meta.TransferSyntaxUID
    with pytest.raises(BadInput, match="x: IM1 has no TransferSyntaxUID"):
        stored_values("x", ds, "IM1")
    ds.file_meta.TransferSyntaxUID = "1.2.3.4"
    with pytest.raises(BadInput, match="there is no decoder for it"):
        stored_values("x", ds)
