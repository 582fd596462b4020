import csv
import json
import shutil

import pytest

from common.apps.report import compare_runs
from common.cli.main import main
from common.io.bad_input import BadInput
from tests.visualize.test_html_report import outline
from tests.visualize.test_run_page import make_run, write_stage


@pytest.fixture
def runs(tmp_path):
    found = [tmp_path / "one" / "run", tmp_path / "two" / "run", tmp_path / "three"]
    for run in found:
        make_run(run)
        write_stage(run / "diffusion")
    shutil.rmtree(found[2] / "diffusion")
    return found


def test_a_page_and_a_table(runs, tmp_path, capsys):
    words = [str(run) for run in runs]
    assert main(["report", *words, "--output_dir", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "results_summary.csv").open()))
    assert [row["run"] for row in rows] == ["one/run"] * 2 + ["two/run"] * 2 + [f"{tmp_path.name}/three"] * 2
    assert rows[0]["stage"] == "latents" and rows[1]["val_psnr"] == "28.5173" and rows[0]["trainable"] == "264616708"
    found = outline((tmp_path / "out" / "index.html").read_text())
    assert found.of("h2") == ["Runs", "Latents", "Diffusion"]
    assert "two/run" in found.of("td") and len([tag for tag, _ in found.seen if tag == "img"]) == 1


def test_evaluations_and_nested_metrics(runs, tmp_path):
    summary = json.loads((runs[0] / "summary.json").read_text())
    summary["stages"][0]["metrics"] = {"linear": {"psnr": 30.5}}
    (runs[0] / "summary.json").write_text(json.dumps(summary))
    (runs[1] / "metrics_mean.csv").write_text("mode,window,psnr\nlinear,wide,29.1\n")
    result = compare_runs(runs, tmp_path / "out")
    assert result["rows"][0]["linear.psnr"] == 30.5
    found = outline((tmp_path / "out" / "index.html").read_text())
    assert found.of("h2")[-1] == "Evaluation" and "29.10" in found.of("td")


def test_runs_on_other_data_are_remarked(runs, tmp_path):
    summary = json.loads((runs[0] / "summary.json").read_text())
    (runs[0] / "summary.json").write_text(json.dumps(summary | {"data_hash": "other"}))
    compare_runs(runs, tmp_path / "out")
    assert "The runs saw 2 different data sets." in (tmp_path / "out" / "index.html").read_text()


def test_what_is_no_run_is_named(runs, tmp_path, capsys):
    with pytest.raises(BadInput, match="holds no summary.json"):
        compare_runs([tmp_path], tmp_path / "out")
    with pytest.raises(BadInput, match="is given twice"):
        compare_runs([runs[0], runs[0] / ".." / "run"], tmp_path / "out")
    with pytest.raises(BadInput, match="is one of the runs"):
        compare_runs(runs, runs[0])
    assert main(["report"]) == 2
    assert "report needs RUNS ..." in capsys.readouterr().err
