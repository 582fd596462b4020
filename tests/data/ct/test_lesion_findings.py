import nibabel as nib
import numpy as np
import pytest

from common.data.ct.lesion_findings import lesion_findings, read_lesion_findings
from common.data.virtual.body import REGION_ID
from common.data.virtual.patient import lesion_map, make_virtual_patient
from common.io.bad_input import BadInput

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


@pytest.fixture
def maps():
    """A nodule of 5 x 4 x 2 voxels in the right upper lobe, one of 3 x 3 x 3 in the left lower, a crumb, fluid."""
    lesions, regions = np.zeros((40, 40, 20), np.uint8), np.zeros((40, 40, 20), np.uint8)
    regions[:20], regions[20:] = REGION_ID["right upper lobe"], REGION_ID["left lower lobe"]
    lesions[2:7, 5:9, 3:5] = 5
    lesions[30:33, 5:8, 5:8] = 5
    lesions[30, 30, 15] = 5
    lesions[21:39, 20:38, 0:2] = 2
    return lesions, regions


def test_size_place_side_and_severity(maps):
    found = lesion_findings(*maps, AFFINE)
    effusion, *nodules = found
    assert (effusion.label, effusion.side, effusion.size_mm) == ("Pleural effusion", "left", None)
    assert effusion.severity == "mild"  # 18 x 18 x 2 voxels of 12 cubic mm: 8 ml
    assert [(n.label, n.region, n.side, n.size_mm, n.severity) for n in nodules] == [
        ("Lung nodule", "right upper lobe", "right", 10.0, "moderate"),
        ("Lung nodule", "left lower lobe", "left", 9.0, "moderate"),
    ]


def test_a_large_effusion_is_severe(maps):
    lesions, regions = maps
    assert lesion_findings(lesions, regions, AFFINE * 6)[0].severity == "severe"  # 8 ml x 216


def test_nothing_there():
    empty = np.zeros((4, 4, 4), np.uint8)
    assert lesion_findings(empty, empty, AFFINE) == []


def test_a_virtual_patient_is_found_again():
    patient = make_virtual_patient(5, (48, 96, 96), (3, 2, 2), findings=["Consolidation", "Pleural effusion"])
    found = lesion_findings(lesion_map(patient), patient.regions, patient.affine)
    assert {f.label for f in found} == {"Consolidation", "Pleural effusion"}
    for label in ("Consolidation", "Pleural effusion"):
        drawn = {f.side for f in patient.findings if f.label == label}
        assert {f.side for f in found if f.label == label} == drawn
    assert {f.region for f in found if f.label == "Consolidation"} == {
        f.region for f in patient.findings if f.label == "Consolidation"
    }


def save(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_bad_maps_are_named(tmp_path, maps):
    lesions, regions = (save(tmp_path / f"{name}.nii.gz", values) for name, values in zip("lr", maps, strict=True))
    assert len(read_lesion_findings(lesions, regions)) == 3
    with pytest.raises(BadInput, match="l2.nii.gz: holds the value 9, expected whole numbers from 0 to 5"):
        read_lesion_findings(save(tmp_path / "l2.nii.gz", np.full((4, 4, 4), 9, np.uint8)), regions)
    with pytest.raises(BadInput, match="does not match the regions"):
        read_lesion_findings(save(tmp_path / "l3.nii.gz", maps[0][:20]), regions)
    with pytest.raises(BadInput, match="does not match the regions"):
        read_lesion_findings(save(tmp_path / "l4.nii.gz", maps[0], AFFINE * 1.1), regions)
    with pytest.raises(BadInput, match="r.nii: cannot be read|r.nii"):
        read_lesion_findings(lesions, tmp_path / "r.nii")
