import json
import logging

import pytest
import torch
from torch import nn

from common.handlers.engine_state import notes
from common.handlers.startup_report import StartupReportHandler, report_lines, startup_report
from tests.handlers.small_engines import make_network, make_trainer


def parts(vae: int = 20_944_897, unet: int = 264_616_708) -> dict[str, nn.Module]:
    """Networks with the parameter counts of the document, on the meta device."""
    modules = {}
    for name, n in (("VAE", vae), ("U-Net", unet)):
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(n - 1, device="meta"))
        module.bias = nn.Parameter(torch.empty(1, device="meta"))
        modules[name] = module
    modules["VAE"].requires_grad_(False)
    return modules


def test_the_lines_are_those_of_the_document():
    modules = parts()
    optimizer = torch.optim.AdamW([{"params": list(modules["U-Net"].parameters()), "name": "unet"}], lr=1e-4)
    chunks = [{"what": "encoding", "slices": 50, "size": 32}]
    report = startup_report(modules, optimizer, {"train": 243, "val": 48, "test": 32}, chunks)
    assert report_lines(report) == [
        "Total parameters: 285,561,605",
        "  Trainable: 264,616,708",
        "  VAE: 20,944,897 (0 trainable)",
        "  U-Net: 264,616,708",
        "Optimizer param groups: 1",
        "  Group 0 (unet): 264,616,708 params, LR: 1.00e-04",
        "Train-Test Split: 243 train, 48 val, 32 test",
        "Using chunked encoding: 50 slices -> 2 chunks of max 32 slices; memory savings ~36 % peak",
    ]
    assert report["warnings"] == []
    assert report["chunks"][0]["memory_saved"] == pytest.approx(0.36)


def test_groups_without_a_name_are_called_by_their_part():
    modules = parts(10, 20)
    optimizer = torch.optim.SGD(modules["U-Net"].parameters(), lr=0.5)
    assert startup_report(modules, optimizer)["optimizer"] == [{"name": "U-Net", "parameters": 20, "lr": 0.5}]


def test_shared_parameters_count_once_in_the_total():
    network = nn.Linear(3, 3)
    report = startup_report({"a": network, "b": nn.Sequential(network, nn.Linear(3, 1))})
    assert report["parameters"]["total"] == 12 + 4
    assert report["parameters"]["parts"]["b"]["total"] == 16


def test_a_frozen_tensor_in_the_optimizer_and_a_missing_one_are_said():
    modules = parts(10, 20)
    optimizer = torch.optim.SGD([*modules["VAE"].parameters(), modules["U-Net"].weight], lr=0.5)
    frozen, missing = startup_report(modules, optimizer)["warnings"]
    assert frozen.startswith("The optimizer holds 2 frozen tensors")
    assert missing.startswith("1 trainable tensors are not in the optimizer")


def test_one_chunk_saves_nothing():
    report = startup_report({}, chunks=[{"what": "decoding", "slices": 8, "size": 8}])
    assert report_lines(report)[-1] == "Chunked decoding: 8 slices fit 1 chunk of max 8 slices"
    assert report["chunks"][0]["memory_saved"] == 0


@pytest.mark.parametrize("plan", [{"what": "x", "slices": 5}, {"what": "x", "slices": 0, "size": 2}])
def test_a_wrong_plan_is_refused(plan):
    with pytest.raises(ValueError, match="expected"):
        startup_report({}, chunks=[plan])


def test_splits_are_counted_by_patient_in_the_manifest(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case,patient,split\na,p1,val\nb,p2,train\nc,p2,train\nd,p3,train\ne,p4,test\n")
    report = startup_report({}, splits=manifest)
    assert list(report["splits"].items()) == [("train", 2), ("val", 1), ("test", 1)]
    manifest.write_text("case\na\n")
    with pytest.raises(ValueError, match="manifest.csv: has no column 'patient'"):
        startup_report({}, splits=manifest)


def test_the_handler_logs_writes_and_notes(tmp_path, caplog):
    caplog.set_level(logging.INFO, "train")
    network, frozen = make_network(), nn.Linear(2, 2).requires_grad_(False)
    handler = StartupReportHandler({"VAE": frozen, "U-Net": network}, {"train": 2}, (), tmp_path, "diffusion")
    optimizer = torch.optim.SGD([*network.parameters(), *frozen.parameters()], lr=0.1)
    trainer = make_trainer([handler], network, optimizer=optimizer)
    trainer.run()
    messages = [record.getMessage() for record in caplog.records if record.name == "train"]
    assert messages[:3] == ["Total parameters: 8", "  Trainable: 2", "  VAE: 6 (0 trainable)"]
    assert "frozen tensors" in notes(trainer)[0] and notes(trainer)[0] in messages
    written = json.loads((tmp_path / "diffusion" / "startup.json").read_text())
    assert report_lines(written) == messages[:-1] and written["warnings"] == notes(trainer)
