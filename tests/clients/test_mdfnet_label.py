"""A real MONAI Label server, headless and offline, on the packed `mdfnet_cxr`: an X-ray in, 14 scores out."""

import json
import urllib.request

import pytest

from common.apps.predict import predict
from common.data.virtual.patient import make_virtual_patient
from common.data.virtual.study import virtual_study
from common.data.virtual.xray import make_virtual_xray
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.clients.label_server import infer, serve
from tests.clients.packed_mdfnet import BUNDLE, make_packed, write_prepared, write_xray
from tests.data.cxr.dicom_xray import write_dicom_xray

pytestmark = pytest.mark.client
NAME = "mdfnet_cxr_classification"  # MONAI Label takes the kind of task from the folder's name
PARAMS = {"device": "cpu"}


@pytest.fixture(scope="module")
def server(label_python, tmp_path_factory):
    """URL of a server with two studies, a PNG and a DICOM file, and the bundle; and its folder."""
    work = tmp_path_factory.mktemp("label")
    (work / "bundle").mkdir()
    bundle = make_packed(work / "bundle", write_prepared(work / "data"))
    write_xray(work / "studies" / "case_0.png", seed=5)
    xray = make_virtual_xray(make_virtual_patient(3, (16, 32, 32), (9.0, 10.0, 11.0)), 64)
    write_dicom_xray(work / "studies" / "case_1.dcm", xray, virtual_study(3), "MONOCHROME1")
    with serve(label_python, work, bundle, NAME, MONAI_LABEL_DATASTORE_FILE_EXT='["*.png", "*.dcm"]') as url:
        yield url, work


def scores(server, case="case_0", **params):
    answer = json.loads(infer(server[0], NAME, case, "json", PARAMS | params))
    assert [entry["idx"] for entry in answer["prediction"]] == list(range(14))
    return {entry["label"]: entry["score"] for entry in answer["prediction"]}


def ours(work, out, file="case_0.png", **overrides):
    predict(BUNDLE, work / "studies" / file, out, work / "bundle" / "weights", overrides)
    found = json.loads((out / f"{file[:-4]}.json").read_text())["labels"]
    return {label.lower(): pytest.approx(value, abs=2e-6) for label, value in found.items()}


def test_mdfnet_is_offered_as_a_classification(server):
    info = json.loads(urllib.request.urlopen(f"{server[0]}/info/").read())["models"][NAME]
    assert info["type"] == "classification" and info["dimension"] == 2 and info["config"]["note"] == ""
    assert list(info["labels"]) == [label.lower() for label in CHEXPERT_LABELS]


@pytest.mark.parametrize("file", ["case_0.png", "case_1.dcm"])
def test_mdfnet_scores_an_xray_as_predict_does(server, file, tmp_path):
    assert scores(server, file[:-4]) == ours(server[1], tmp_path / "ours", file)


def test_mdfnet_reads_the_note_that_is_typed_beside_it(server, tmp_path):
    note = "Fell from a ladder, chest pain."
    found = scores(server, note=note)
    assert found == ours(server[1], tmp_path / "ours", note=note)
    assert found != scores(server)  # the next request has none
