"""A real MONAI Label server, headless and offline, on the packed `xr2text`: an X-ray in, its report out."""

import json
import urllib.request

import pytest

from common.apps.predict import predict
from tests.clients.label_server import infer, serve
from tests.clients.packed_mdfnet import write_xray
from tests.clients.packed_xr2text import BUNDLE, make_packed

pytestmark = pytest.mark.client
NAME = "xr2text"


@pytest.fixture(scope="module")
def server(label_python, tmp_path_factory):
    """URL of a server with one study and the bundle; and its folder."""
    work = tmp_path_factory.mktemp("label")
    (work / "bundle").mkdir()
    bundle = make_packed(work / "bundle")
    write_xray(work / "studies" / "case_0.png", seed=5)
    with serve(label_python, work, bundle, NAME, MONAI_LABEL_DATASTORE_FILE_EXT='["*.png"]') as url:
        yield url, work


def test_xr2text_is_offered(server):
    assert NAME in json.loads(urllib.request.urlopen(f"{server[0]}/info/").read())["models"]


def test_xr2text_writes_the_report_that_predict_writes(server, tmp_path):
    answer = json.loads(infer(server[0], NAME, "case_0", "json", {"device": "cpu"}))
    predict(BUNDLE, server[1] / "studies" / "case_0.png", tmp_path, server[1] / "bundle" / "weights")
    assert answer["report"] == json.loads((tmp_path / "case_0.json").read_text())["report"] != ""
