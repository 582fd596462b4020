"""What is DICOM by its content, and how a data set without a header is read."""

import struct

import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from common.data.dicom_file import is_data_set, is_dicom, read_dataset


def element(group: int, number: int, vr: str, value: bytes, order: str = "<", explicit: bool = True) -> bytes:
    head = struct.pack(f"{order}HH", group, number)
    length = vr.encode() + struct.pack(f"{order}H", len(value)) if explicit else struct.pack(f"{order}I", len(value))
    return head + length + value


def body(order: str = "<", explicit: bool = True) -> bytes:
    parts = [(0x8, 0x5, "CS", b"ISO_IR 100"), (0x8, 0x60, "CS", b"CT"), (0x10, 0x20, "LO", b"P1")]
    return b"".join(element(*part, order, explicit) for part in parts)


@pytest.mark.parametrize(
    ("order", "explicit", "syntax"),
    [
        ("<", False, ImplicitVRLittleEndian),
        ("<", True, ExplicitVRLittleEndian),
        (">", True, ExplicitVRBigEndian),
    ],
    ids=["implicit", "explicit", "big endian"],
)
def test_a_data_set_alone_is_dicom_in_the_order_that_it_has(order, explicit, syntax):
    data = body(order, explicit)
    assert is_data_set(data) and is_dicom(data)
    ds = read_dataset(data)
    assert (ds.Modality, ds.PatientID, ds.file_meta.TransferSyntaxUID) == ("CT", "P1", syntax)


def test_the_mark_is_enough_with_or_without_the_bytes_before_it():
    meta = element(2, 0x10, "UI", b"1.2.840.10008.1.2.1\0")
    for data in (bytes(128) + b"DICM" + meta + body(), b"DICM" + meta + body(), meta + body()):
        assert is_dicom(data)
        assert read_dataset(data).PatientID == "P1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\0",
        b"case,path\n" * 50,
        bytes(600),
        b"\x08\0" * 300,
        body()[:12],  # a first element and nothing after it
        element(0x8, 0x60, "CS", b"CT") + element(0x8, 0x5, "CS", b"ISO_IR 100"),  # against the order of tags
        element(0x10, 0x20, "LO", b"P1") * 2,
    ],
    ids=["empty", "two bytes", "text", "zeros", "eights", "one element", "falling tags", "another group"],
)
def test_other_bytes_are_none(data):
    assert not is_dicom(data)
    with pytest.raises(InvalidDicomError):
        read_dataset(data)


def test_compressed_values_without_a_syntax_stay_without_one():
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.Modality = "1.2.3", "CT"
    ds.add_new("PixelData", "OB", pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"]))
    ds["PixelData"].is_undefined_length = True
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
    assert "TransferSyntaxUID" not in read_dataset(buffer.getvalue()).file_meta
