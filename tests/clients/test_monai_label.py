"""A real MONAI Label server, headless and offline, on the packed bundle: thick slices in, thin slices out."""

import json
import urllib.request

import nibabel as nib
import numpy as np
import pytest

from tests.clients.label_server import infer, serve
from tests.clients.packed import make_packed
from tests.data.ct.thin_ct import write_thin_ct

pytestmark = pytest.mark.client
NAME = "ct_slice_interpolation"


@pytest.fixture(scope="module")
def server(label_python, tmp_path_factory):
    """URL of a server with one study, case_0, and the bundle."""
    work = tmp_path_factory.mktemp("label")
    (work / "bundle").mkdir()
    bundle = make_packed(work / "bundle")
    (work / "studies").mkdir()
    write_thin_ct(work / "studies" / "case_0.nii.gz", shape=(32, 28, 12), spacing=(1.5, 1.5, 5.0))
    with serve(label_python, work, bundle, NAME) as url:
        yield url, work


def test_the_model_is_offered(server):
    info = json.loads(urllib.request.urlopen(f"{server[0]}/info/").read())
    assert NAME in info["models"]


def test_infer_gives_the_finer_grid(server, tmp_path):
    url, work = server
    content = infer(
        url, NAME, "case_0", "image", {"device": "cpu", "result_extension": ".nii.gz", "result_dtype": "float32"}
    )
    (tmp_path / "thin.nii.gz").write_bytes(content)
    thick, thin = nib.load(work / "studies" / "case_0.nii.gz"), nib.load(tmp_path / "thin.nii.gz")
    assert thin.shape == (32, 28, 60), (work / "server.log").read_text()[-3000:]
    assert thin.header.get_zooms()[2] == pytest.approx(1.0, abs=1e-3)
    # the same millimetres: the outer faces of the first and the last slice
    for end, index in ((-0.5, 0), (0.5, -1)):
        faces = [(image.affine @ [0, 0, (image.shape[2] - 1 if index else 0) + end, 1])[2] for image in (thick, thin)]
        assert faces[0] == pytest.approx(faces[1], abs=1e-3)
    means = thin.get_fdata().reshape(32, 28, 12, 5).mean(-1)
    assert np.abs(means - thick.get_fdata()).max() < 0.5
