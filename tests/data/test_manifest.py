import pytest

from common.data.manifest import read_manifest, read_split, source_weights
from common.io.bad_input import BadInput


def test_rows_and_splits(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "case,split,image\n001,train,images/a.nii.gz\n002,val,/abs/b.nii.gz\n003,val,c.nii\n"
    )
    assert [row["case"] for row in read_manifest(tmp_path)] == ["001", "002", "003"]
    assert read_manifest(tmp_path / "manifest.csv")[0]["image"] == str(tmp_path / "images" / "a.nii.gz")
    assert [row["image"] for row in read_split(tmp_path, "val", limit=1)] == ["/abs/b.nii.gz"]
    with pytest.raises(BadInput, match="split test"):
        read_split(tmp_path, "test")


@pytest.mark.parametrize(("text", "what"), [("case,split\n1,train\n", "image"), ("case,split,image\n", "no case")])
def test_bad_manifests_are_named(tmp_path, text, what):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(BadInput, match=what):
        read_manifest(tmp_path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_manifest(tmp_path)


def test_virtual_patients_make_up_their_share():
    rows = [{"seed": ""}, {"seed": "0"}, {"seed": "1"}, {}]
    assert source_weights(rows, 0.2) == [0.4, 0.1, 0.1, 0.4]
    assert source_weights(rows[:1], 0.2) == [1.0] and source_weights(rows[1:3], 0.2) == [1.0, 1.0]
    with pytest.raises(ValueError, match="1.5"):
        source_weights(rows, 1.5)
