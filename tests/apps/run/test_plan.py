import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch._subclasses.fake_tensor import FakeTensorMode

from common.apps.run.bundle import UsageError, open_bundle
from common.apps.run.plan import LiveBytes, as_table, plan_bundle, planned_stage
from common.cli.main import main
from common.io.bad_input import BadInput

BUNDLE = Path("bundles/ct_slice_interpolation")


def test_live_bytes_against_a_count_by_hand():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1  # both live
        del a
        c = b[:10]  # a view holds no more
        d = torch.zeros(200)
        assert live.now == 4 * 1200
        del b, c
        assert live.now == 4 * 200 and live.peak == 4 * 2000
        del d
    assert live.now == 0


def test_nothing_is_allocated():
    with FakeTensorMode(), LiveBytes() as live:
        weight = torch.zeros(1 << 20, 1 << 20, requires_grad=True)  # 4 TB
        loss = (weight * 2).square().sum()
        loss.backward()
    assert live.peak >= 3 * 4 << 40


@pytest.fixture(scope="module")
def demo():
    return {row["stage"]: row for row in plan_bundle(BUNDLE, "demo")["stages"]}


def test_the_stages_of_the_demo(demo):
    assert list(demo) == ["vae", "diffusion", "refiner"]
    unet = demo["diffusion"]
    assert unet["parameters"] == unet["trainable"] == 3_023_780
    assert unet["weights"] == unet["gradients"] == unet["average"] == 4 * unet["parameters"]
    assert unet["optimizer"] == pytest.approx(2 * unet["weights"], rel=1e-3)  # AdamW's two moments, and step counts
    assert unet["frozen"] == pytest.approx(4 * demo["vae"]["parameters"], rel=1e-3)
    assert demo["refiner"]["optimizer"] < 1.2 * demo["refiner"]["weights"]  # Muon keeps one for most weights
    for row in demo.values():
        parts = ("weights", "gradients", "optimizer", "average", "frozen", "activations")
        assert row["peak"] >= sum(row[part] for part in parts)
        assert row["checkpoint"] == 2 * row["weights"] + row["optimizer"]


def test_larger_batches_need_more_and_several_processes_too(demo):
    larger = plan_bundle(BUNDLE, "demo", ["refiner"], gpus=4, overrides={"batch_size": 32})["stages"][0]
    assert larger["activations"] > 1.8 * demo["refiner"]["activations"]
    assert larger["gradients"] == 2 * demo["refiner"]["gradients"]


def test_the_paper_size_and_what_helps_where_it_does_not_fit(capsys):
    words = ["plan", str(BUNDLE), "--stages", "latents,diffusion", "--gpu_memory", "8"]
    assert main([*words, "--plan#volume", "100,512,512"]) == 0
    out = capsys.readouterr().out
    assert "266,647,172" in out and "latents: trains nothing" in out
    assert "diffusion needs 8." in out and "and there are 8 GB; with --latent_crop [16,64,64] 5." in out
    assert "--encode_chunk" not in out  # the latents are encoded by another stage
    assert main([*words, "--gpus", "0"]) == 2
    assert main([*words, "--batch_sice", "2"]) == 2


def test_as_json(capsys):
    assert main(["plan", str(BUNDLE), "--scale", "demo", "--stages", "refiner", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["stage"] == "refiner"


def test_an_unknown_stage_is_named():
    with pytest.raises(UsageError, match="has 'difusion', expected some of .*; the nearest is diffusion"):
        plan_bundle(BUNDLE, "demo", ["difusion"])


def test_sizes_that_do_not_fit_are_a_sentence(capsys):
    words = ["plan", str(BUNDLE), "--scale", "demo", "--stages", "diffusion", "--plan#volume", "3,3,3"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("stage diffusion cannot take a step on its plan#batch (")


def test_the_plan_file_says_what_differs_for_a_stage_and_the_user_comes_last():
    found = open_bundle(BUNDLE)
    vae, unet = (ConfigParser(planned_stage(found, name, "demo").config) for name in ("vae", "diffusion"))
    assert list(vae["plan#batch"]) == ["image"] and vae["plan#frozen"] == []
    assert unet.get_parsed_content("plan#volume") == [48, 96, 96]  # of the virtual patients
    assert ConfigParser(planned_stage(found, "diffusion", "paper").config).get_parsed_content("plan#volume")[0] == 300
    user = planned_stage(found, "vae", "demo", {"plan#frozen": ["@unet_def"]})
    assert user.config["plan"]["frozen"] == ["@unet_def"]


def test_a_bundle_without_a_plan_is_named(tmp_path):
    bundle = shutil.copytree(BUNDLE, tmp_path / "ct_slice_interpolation")
    (bundle / "configs" / "plan.json").unlink()
    with pytest.raises(BadInput, match="plan.json: does not exist, expected a configuration file of the bundle"):
        plan_bundle(bundle, "demo", ["refiner"])


def test_the_table():
    text = as_table([{"stage": "a", "parameters": 1234567, "weights": 2_000_000_000}, {"stage": "b", "parameters": 1,
                    "weights": 5_000_000}])  # fmt: skip
    assert "1,234,567" in text and "2.00 GB" in text and "5.0 MB" in text


def test_flops_of_a_sample_and_the_hours_and_cost_of_a_stage(capsys):
    bundle = BUNDLE.parent / "xr2text"
    ask = {"scale": "demo", "stages": ["vision", "easy"]}
    few, many = (plan_bundle(bundle, **ask, overrides={"batch_size": n})["stages"] for n in (8, 16))
    for a, b in zip(few, many, strict=True):
        assert a["flops"] == pytest.approx(b["flops"], rel=1e-3) and "hours" not in a
    rows = plan_bundle(bundle, **ask, gpus=2, gpu_tflops=0.5, price=3)["stages"]
    easy = rows[1]
    assert "hours" not in rows[0]  # how many samples it sees depends on the data
    assert easy["hours"] == pytest.approx(easy["flops"] * 12161 * 7 / (2 * 0.5e12) / 3600)
    assert easy["cost"] == pytest.approx(easy["hours"] * 3 * 2)
    assert main(["plan", str(bundle), "--scale", "demo", "--stages", "easy", "--gpu_tflops", "1"]) == 0
    assert "GFLOP" in (out := capsys.readouterr().out) and "hours" in out and "cost" not in out
    assert main(["plan", str(bundle), "--price", "1"]) == 2 and "--price needs --gpu_tflops" in capsys.readouterr().err
