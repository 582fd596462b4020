import json

import numpy as np
import pytest

from common.io.bad_input import BadInput
from common.visualize.figures import save_picture
from common.visualize.run_page import duration_text, write_run_page
from common.visualize.run_summary import build_summary, write_summary
from common.visualize.tables import json_text
from tests.visualize.test_html_report import outline


def make_run(run, stages=("latents", "diffusion")):
    entries = [{"name": name, "seconds": 432.0, "metrics": {"val_psnr": 28.5173}} for name in stages]
    baselines = {"linear": {"psnr": 29.9, "ssim": 0.81}, "cases": 3}
    parameters = {"total": 285_561_605, "trainable": 264_616_708}
    summary = build_summary("ct_slice_interpolation", "demo", 7, "c0ffee" * 10, entries, baselines, parameters)
    write_summary(run, summary)
    return summary


def write_stage(folder):
    rows = [{"iteration": i, "epoch": 1, "loss": 1 / i} for i in range(1, 5)]
    history = {"stage": folder.name, "seconds": 432.0, "iterations": rows, "metrics": {"val_psnr": 28.5173}}
    history |= {"validations": [{"iteration": 4, "psnr": 28.5}], "notes": ["The limit <of> 60 minutes is reached."]}
    pixels = np.zeros((8, 9, 3), dtype=np.uint8)
    save_picture(pixels, folder / "pictures" / "case.png", "Case a & b, axial.")
    (folder / "history.json").write_text(json_text(history))
    (folder / "config.json").write_text(json.dumps({"optimizer": {"lr": 0.0001}}))


def test_a_training_run(tmp_path):
    summary = make_run(tmp_path)
    write_stage(tmp_path / "diffusion")
    write_stage(tmp_path / "refiner")  # not in the summary, of a run that is not finished
    (tmp_path / "cache").mkdir()
    page = write_run_page(tmp_path)
    assert page == tmp_path / "index.html"
    text = page.read_text()
    found = outline(text)
    assert found.of("h1") == ["CT slice interpolation"]
    assert found.of("h2") == ["Overview", "Latents", "Diffusion", "Refiner", "Origin"]
    facts = found.of("dd")
    assert {"285,561,605", "264,616,708", "c0ffeec0ffee", "28.52", "7 min 12 s", "14 min 24 s", "7"} <= set(facts)
    assert summary["versions"]["monai"] in facts
    assert {"29.90", "0.8100"} <= set(found.of("td"))
    captions = found.of("figcaption")
    assert captions.count("Case a & b, axial.") == 2 and len(captions) == 4  # and the curves
    assert "The limit &lt;of&gt; 60 minutes is reached." in text
    assert found.of("summary").count("Configuration") == 2
    assert any('"lr": 0.0001' in content for content in found.of("pre"))
    assert len([tag for tag, _ in found.seen if tag == "img"]) == 4
    assert str(tmp_path) not in text


def test_a_metric_of_each_class_is_among_the_details(tmp_path):
    metrics = {"val_mean_auroc": 0.8125, "val_auroc/Edema": 0.7512, "val_auroc/Lung Lesion": 0.6634}
    stages = [{"name": "stage1", "seconds": 1.0, "metrics": metrics}]
    write_summary(tmp_path, build_summary("mdfnet_cxr", "demo", 7, None, stages, {}, {"total": 1, "trainable": 1}))
    found = outline(write_run_page(tmp_path).read_text())
    assert "0.8125" in found.of("dd") and not {"0.7512", "0.6634"} & set(found.of("dd"))
    assert "Validation AUROC of each class" in found.of("summary")
    assert {"Edema", "0.7512", "Lung Lesion", "0.6634"} <= set(found.of("td"))


@pytest.mark.parametrize("inside", ["", "evaluation"])
def test_results_come_first(tmp_path, inside):
    make_run(tmp_path)
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    lines = ["mode,window,psnr,ssim", "linear,wide,29.9,0.81", "refiner,wide,34.4,0.9"]
    (folder / "metrics_mean.csv").write_text("\n".join(lines) + "\n")
    found = outline(write_run_page(tmp_path).read_text())
    assert found.of("h2")[:2] == [inside.capitalize() or "Results", "Overview"]
    assert found.of("td")[:6] == ["linear", "29.90", "0.8100", "refiner", "34.40", "0.9000"]
    assert found.of("figcaption")[0].startswith("Gain in mean PSNR over linear")


def test_an_evaluation_alone(tmp_path):
    summary = build_summary("xr2text", "paper", 0, None, [], {}, {"total": 1, "trainable": 0})
    write_summary(tmp_path, summary | {"git_commit": None})
    (tmp_path / "metrics_mean.csv").write_text("label,auroc\nEdema,0.9\n")
    found = outline(write_run_page(tmp_path).read_text())
    assert found.of("h2") == ["Results", "Origin"]
    assert found.of("td") == ["Edema", "0.9000"]
    assert "not in a repository" in found.of("dd")


def test_the_page_is_the_same_again(tmp_path):
    make_run(tmp_path)
    write_stage(tmp_path / "diffusion")
    first = write_run_page(tmp_path).read_bytes()
    assert write_run_page(tmp_path).read_bytes() == first


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"summary\.json: does not exist"):
        write_run_page(tmp_path)
    make_run(tmp_path)
    (tmp_path / "metrics_mean.csv").write_text("mode,window,psnr\n")
    with pytest.raises(BadInput, match=r"metrics_mean\.csv: has no rows"):
        write_run_page(tmp_path)
    (tmp_path / "summary.json").write_text('{"bundle": "a"}')
    with pytest.raises(ValueError, match=r"summary\.json has the keys bundle, expected"):
        write_run_page(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (48.2, "48 s"), (59.7, "1 min 0 s"), (432, "7 min 12 s"), (306840, "85 h 14 min"), (None, "-")],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text
