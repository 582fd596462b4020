import json

import numpy as np
import pytest

from common.io.bad_input import BadInput
from common.metrics.detection import LOCALISED
from common.metrics.localisation import localisation_scores, read_localisation

BOX = [10.0, 20.0, 30.0, 8.0, 8.0, 8.0]
NEAR = [14.0, 20.0, 30.0, 8.0, 8.0, 8.0]  # IoU 1/3, centres 4 mm apart


def entry(name, **boxes):
    """One scan as the challenge writes it; keyword arguments are diseases with spaces as underscores."""
    given = {disease.replace("_", " "): found for disease, found in boxes.items()}
    return {"input_image_name": name} | {disease: given.get(disease, []) for disease in LOCALISED}


def write(path, *entries):
    path.write_text(json.dumps([{"outputs": [{"type": "predictions", "value": {"predictions": list(entries)}}]}]))
    return path


def detected(box, probability):
    return {"bbox_mm": box, "probability": probability}


def test_files_of_the_challenge_are_read_and_scored(tmp_path):
    predicted = write(
        tmp_path / "predictions.json",
        entry("1.2.840.1.mha", Lung_nodule=[detected(NEAR, 0.9), detected([99.0, 9, 9, 5, 5, 5], 0.4)]),
        entry("000123", Pleural_effusion=[detected(BOX, 0.8)]),
    )
    true = write(
        tmp_path / "truth.json",
        entry("000123.nii.gz", Lung_nodule=[{"bbox_mm": BOX}], Pleural_effusion=[{"bbox_mm": BOX}]),
        entry("1.2.840.1", Lung_nodule=[{"bbox_mm": BOX}]),
    )
    scans = read_localisation(predicted)
    assert list(scans) == ["1.2.840.1", "000123"]
    truth = read_localisation(true)
    assert truth["000123"]["Lung nodule"][1].tolist() == [1]

    result = localisation_scores(scans, truth, draws=50)
    assert result.iou["Lung nodule"].value == pytest.approx(1 / 6)  # one of two nodules, overlapped by a third
    assert result.iou["Pleural effusion"].value == 1
    assert result.iou["macro"].value == pytest.approx(7 / 12)
    assert result.distance["Lung nodule"].value == 4 and result.distance["macro"].value == 2
    assert [value.value for value in result.froc["Lung nodule"].at.values()] == [0.5] * 4
    assert result.mean_sensitivity == 0.75
    assert set(result.undefined) == {"Pericardial effusion", "Consolidation", "Ground glass opacity"}
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["iou"]["Consolidation"]["value"] is None
    assert written["froc"]["Lung nodule"]["at"]["0.5"]["value"] == 0.5


def test_perfect_boxes_and_no_boxes():
    boxes = {disease: (np.array([BOX, [100.0, 0, 0, 5, 5, 5]]), np.ones(2)) for disease in LOCALISED}
    none = {disease: (np.empty((0, 6)), np.empty(0)) for disease in LOCALISED}
    perfect = localisation_scores({"a": boxes, "b": none}, {"a": boxes, "b": none}, draws=0)
    assert perfect.iou["macro"].value == perfect.mean_sensitivity == 1 and perfect.distance["macro"].value == 0
    assert perfect.undefined == {}
    nothing = localisation_scores({"a": none, "b": none}, {"a": boxes, "b": none}, draws=0)
    assert nothing.iou["macro"].value == nothing.mean_sensitivity == 0
    assert np.isnan(nothing.distance["macro"].value)
    json.dumps(nothing.to_dict(), allow_nan=False)
    assert np.isnan(localisation_scores({"a": none}, {"a": none}, draws=5).mean_sensitivity)


def test_different_scans_are_refused():
    none = {disease: (np.empty((0, 6)), np.empty(0)) for disease in LOCALISED}
    with pytest.raises(ValueError, match="000124"):
        localisation_scores({"000123": none}, {"000123": none, "000124": none})


def unusable(tmp_path, kind):
    path = tmp_path / "boxes.json"
    if kind == "no file":
        return path
    if kind == "not JSON":
        path.write_text("[{")
    elif kind == "another form":
        path.write_text('{"predictions": []}')
    elif kind == "scan twice":
        write(path, entry("a"), entry("a.mha"))
    elif kind == "disease missing":
        write(path, {"input_image_name": "a", "Lung nodule": []})
    elif kind == "five numbers":
        write(path, entry("a", Consolidation=[detected(BOX[:5], 0.5)]))
    elif kind == "no size":
        write(path, entry("a", Consolidation=[detected([*BOX[:5], 0], 0.5)]))
    elif kind == "no box":
        write(path, entry("a", Consolidation=[{"probability": 1}]))
    elif kind == "probability":
        write(path, entry("a", Consolidation=[detected(BOX, 5)]))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no file", "cannot be read"),
        ("not JSON", "not JSON"),
        ("another form", "not JSON of the form"),
        ("scan twice", "'a' twice"),
        ("disease missing", "'Pericardial effusion'"),
        ("five numbers", "unusable box of 'Consolidation'"),
        ("no size", "positive dx"),
        ("no box", "unusable box"),
        ("probability", "from 0 to 1"),
    ],
)
def test_unusable_files_are_refused_by_name(tmp_path, kind, words):
    with pytest.raises(BadInput, match=words) as caught:
        read_localisation(unusable(tmp_path, kind))
    assert caught.value.path == tmp_path / "boxes.json"
