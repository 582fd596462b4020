import json

import numpy as np
import pytest

from common.data.prediction_table import read_predictions
from common.visualize.attention import case_figure
from common.visualize.case_files import write_case_files, write_case_table
from common.visualize.figures import picture_caption


def test_a_case_has_a_row_a_json_and_a_picture(tmp_path):
    labels = {"Edema": 0.25, "Fracture": np.float32(0.1)}
    image = np.random.default_rng(0).random((64, 48))
    paths = write_case_files(tmp_path / "new", "1.2.840", labels, case_figure(image, labels), modalities=["vision"])
    assert [path.name for path in paths] == ["1.2.840.json", "1.2.840.png"]
    found = json.loads(paths[0].read_text())
    assert list(found) == ["case", "labels", "modalities"]
    assert found["labels"] == {"Edema": 0.25, "Fracture": pytest.approx(0.1)}
    assert picture_caption(paths[1]) == "Case 1.2.840: input and probabilities."
    assert [path.name for path in write_case_files(tmp_path, "b", labels)] == ["b.json"]

    others = write_case_files(tmp_path, "b", {"Fracture": 1.0, "Edema": 0.0})
    table = write_case_table(tmp_path, [*paths, *others])
    assert table.read_text() == "case,Edema,Fracture\n1.2.840,0.25,0.100000001\nb,0,1\n"
    assert read_predictions(table).cases == ("1.2.840", "b")


@pytest.mark.parametrize("case", ["", "../up", "a/b", ".hidden"])
def test_a_case_that_cannot_name_a_file_is_refused(tmp_path, case):
    with pytest.raises(ValueError, match="expected a name that a file can have"):
        write_case_files(tmp_path / "out", case, {"Edema": 0.5})
    assert not (tmp_path / "out").exists()


def test_what_is_no_probability_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Edema = nan"):
        write_case_files(tmp_path, "a", {"Edema": float("nan")})
    with pytest.raises(ValueError, match="'b' has the labels Fracture, expected Edema"):
        files = [
            write_case_files(tmp_path, case, {label: 0.5})[0] for case, label in (("a", "Edema"), ("b", "Fracture"))
        ]
        write_case_table(tmp_path, files)
    with pytest.raises(ValueError, match="no case to write"):
        write_case_table(tmp_path, [])
    assert not (tmp_path / "predictions.csv").exists()
