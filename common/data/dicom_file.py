"""A DICOM data set from the bytes of a file, with or without the preamble and header that belong in front of it."""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from common.data.folder_files import is_data_set

__all__ = ["read_dataset"]


def read_dataset(data: bytes) -> FileDataset:
    """Read a file; one that begins with its data set is uncompressed, as the network sends it and old archives keep it.

    Raises:
        InvalidDicomError: if it is no DICOM. Whatever else pydicom raises goes through.
    """
    if data[128:132] == b"DICM" or not is_data_set(data):
        return pydicom.dcmread(BytesIO(data))
    ds = pydicom.dcmread(BytesIO(data), force=True)
    meta = getattr(ds, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        explicit = ExplicitVRLittleEndian if ds.is_little_endian else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if ds.is_implicit_VR else explicit
    ds.file_meta = meta
    return ds
