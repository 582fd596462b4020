"""What tests of strangers' inputs share."""

import pytest

from tests.clients.packed_mdfnet import write_prepared, write_weights
from tests.data.ct.thin_ct import write_thin_ct


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """In a folder of its own; no expression of a test has made the folder that it would make."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not [path for path in tmp_path.rglob("RAN") if path.is_dir()]


@pytest.fixture(scope="session")
def ct_file(tmp_path_factory):
    return write_thin_ct(tmp_path_factory.mktemp("ct") / "ct.nii.gz", (8, 8, 6), (1.0, 1.0, 5.0))


@pytest.fixture(scope="session")
def cxr(tmp_path_factory):
    """Weights of a tiny network, and a prepared folder."""
    folder = tmp_path_factory.mktemp("cxr")
    data = write_prepared(folder / "data")
    return write_weights(folder / "weights", data), data
