"""Writes a virtual X-ray as a DICOM file, in either of the two senses of grey that real detectors use."""

from __future__ import annotations

import os

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from common.data.virtual.files import virtual_uid
from common.data.virtual.study import VirtualStudy
from common.data.virtual.xray import VirtualXray

BITS = 12
ORIENTATION = {"PA": ["L", "F"], "AP": ["L", "F"], "LATERAL": ["P", "F"]}


def write_dicom_xray(
    path: str | os.PathLike[str], xray: VirtualXray, study: VirtualStudy, photometric: str = "MONOCHROME2"
) -> None:
    """Write one image with 12 bits per pixel; the same arguments write the same bytes.

    Args:
        path: of the file.
        xray: the image; of uint16, the 12 upper bits are kept.
        study: gives the ids and the time.
        photometric: "MONOCHROME2", in which large values are bright, or "MONOCHROME1", in which they are dark. Both
            show the same image.

    Raises:
        ValueError: for another photometric interpretation.
    """
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric {photometric!r} is not MONOCHROME1 or MONOCHROME2.")
    pixels = xray.image.astype(np.uint16)
    pixels = pixels >> 16 - BITS if xray.image.dtype == np.uint16 else pixels << BITS - 8 | pixels >> 16 - BITS
    if photometric == "MONOCHROME1":
        pixels = 2**BITS - 1 - pixels
    key = (study.study_id, xray.view, len(pixels), photometric)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = virtual_uid(*key, "image")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = virtual_uid("virtual patient")
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.StudyInstanceUID, d.SeriesInstanceUID = virtual_uid(study.study_id), virtual_uid(*key, "series")
    d.PatientID, d.PatientName, d.StudyID = str(study.subject_id), f"Virtual^{study.seed:06d}", str(study.study_id)
    d.StudyDate, d.StudyTime = study.study_time.strftime("%Y%m%d"), study.study_time.strftime("%H%M%S.%f")[:10]
    d.AccessionNumber = d.ReferringPhysicianName = d.PatientBirthDate = ""
    d.Modality, d.Manufacturer, d.BodyPartExamined = "DX", "Virtual", "CHEST"
    d.ImageType, d.PresentationIntentType = ["ORIGINAL", "PRIMARY", ""], "FOR PRESENTATION"
    d.SeriesNumber, d.InstanceNumber = 1, 1
    d.ViewPosition = "LL" if xray.view == "LATERAL" else xray.view
    d.PatientOrientation = ORIENTATION[xray.view]
    d.ImagerPixelSpacing = [round(xray.pixel_mm, 6)] * 2
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, photometric
    d.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, BITS, BITS - 1, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = 0, 1, "US"
    d.WindowCenter, d.WindowWidth = 2 ** (BITS - 1), 2**BITS
    d.Rows, d.Columns = pixels.shape
    d.PixelData = np.ascontiguousarray(pixels).astype("<u2").tobytes()
    d.save_as(path, enforce_file_format=True)
