import json
import os
import shlex
from pathlib import Path
from typing import Any

import fire
import pytest
import torch
from monai.bundle import run as monai_run

from common.apps.run.bundle import CommandLineText, UnknownKey, UsageError, open_bundle
from common.apps.run.recipe import merged_stage, read_recipe, run_recipe, scale_names
from common.apps.run.stage_runner import StageRunner
from common.io.bad_input import BadInput
from common.io.output_folder import locked
from tests.toy_bundle import make_manifest, make_toy_bundle


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is large, and a collection takes longer than a toy stage."""
    monkeypatch.setattr("gc.collect", lambda: 0)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy_bundle(tmp_path)


@pytest.fixture
def call(toy: Path, tmp_path: Path) -> Any:
    """Run the toy recipe on three cases; returns (stages that ran, stages that were skipped)."""
    data = make_manifest(tmp_path / "data")

    def run(**options: Any) -> tuple[list[str], list[str]]:
        result = run_recipe(toy, **({"dataset_dir": data, "output_dir": tmp_path / "out"} | options))
        return result["ran"], result["skipped"]

    return run


def change(file: Path, **ids: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | ids))


def test_a_run_leaves_what_the_contract_says(call: Any, toy: Path, tmp_path: Path, capsys: Any) -> None:
    threads = torch.get_num_threads()
    assert call(seed=3) == (["first", "second"], [])
    assert torch.get_num_threads() == threads
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["first", "second"]
    assert [stage["metrics"]["epochs"] for stage in summary["stages"]] == [1, 2]
    assert (summary["bundle"], summary["scale"], summary["seed"]) == ("toy", "paper", 3)
    assert (out / "order.txt").read_text() == "first second "
    assert "<html" in (out / "index.html").read_text()
    log = (out / "logs" / "train.log").read_text()
    assert "Epoch[2] Complete" in log and log.count("finished in") == 2
    assert (out / "models" / "second.pt").is_file()
    config = json.loads((out / "second" / "config.json").read_text())
    assert (config["optimizer"]["lr"], config["seed"], config["output_dir"]) == (0.05, 3, str(out))
    shown = capsys.readouterr().out
    assert shown.count("python -m monai.bundle run --config_file") == 2


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_the_printed_command_does_the_same(call: Any, tmp_path: Path, capsys: Any) -> None:
    overrides = {"label": "000123", "switch": True, "rates": [1, 2], "only_second": None, "train#trainer#max_epochs": 3}
    call(overrides=overrides, stages="second", output_dir=tmp_path / "with space $HOME")
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "python -m monai.bundle" in line)
    words = shlex.split(line.split(": ", 1)[1])
    history = tmp_path / "with space $HOME" / "second" / "history.json"
    history.unlink()
    fire.Fire(monai_run, command=words[4:])
    assert json.loads(history.read_text())["metrics"]["epochs"] == 3


def test_a_second_run_skips_everything(call: Any, tmp_path: Path) -> None:
    call()
    before = (tmp_path / "out" / "summary.json").read_text()
    assert call() == ([], ["first", "second"])
    assert (tmp_path / "out" / "summary.json").read_text() == before
    assert (tmp_path / "out" / "order.txt").read_text() == "first second "


def test_a_moved_run_is_still_finished(call: Any, tmp_path: Path) -> None:
    call()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert call(output_dir=tmp_path / "elsewhere", dataset_dir=tmp_path / "moved") == ([], ["first", "second"])


def test_a_change_reruns_the_stage_and_those_after_it(call: Any, toy: Path, tmp_path: Path) -> None:
    call()
    change(toy / "configs" / "second.json", only_second=2)
    assert call() == (["second"], ["first"])
    change(toy / "configs" / "first.json", label="other")
    assert call() == (["first", "second"], [])
    assert call(seed=1) == (["first", "second"], [])
    assert call(seed=1, overrides={"only_second": 5}) == (["second"], ["first"])
    make_manifest(tmp_path / "data", "abcd")
    assert call(seed=1, overrides={"only_second": 5}) == (["first", "second"], [])
    (tmp_path / "out" / "models" / "first.pt").unlink()  # its result is gone
    assert call(seed=1, overrides={"only_second": 5}) == (["first", "second"], [])
    assert call(seed=1, overrides={"only_second": 5}) == ([], ["first", "second"])


def test_a_file_that_the_configuration_names_reruns_the_stage_when_it_changes(call: Any, tmp_path: Path) -> None:
    """Weights that were trained elsewhere, say; a bug: the same path was taken for the same weights."""
    weights, folder = tmp_path / "weights.pt", tmp_path / "encoder"
    folder.mkdir()
    for path in (weights, folder / "model.safetensors"):
        path.write_text("1")
        given = {"label": str(weights), "rates": [1, str(folder)]}
        call(overrides=given)
        assert call(overrides=given) == ([], ["first", "second"])
        path.write_text("22")
        assert call(overrides=given) == (["first", "second"], [])
    assert call(overrides=given) == ([], ["first", "second"])


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data.replace(b"weight", b"wEight", 1), lambda data: b""]
)
def test_damaged_weights_are_made_again_and_what_comes_after_them_stays(
    call: Any, tmp_path: Path, capsys: Any, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call()
    path = tmp_path / "out" / "models" / "first.pt"
    data = path.read_bytes()
    path.write_bytes(damage(data))
    checkpoint = tmp_path / "out" / "first" / "checkpoints" / "iteration_1.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with monkeypatch.context() as patch, pytest.raises(TypeError):  # killed meanwhile
        patch.setattr(StageRunner, "_execute", None)
        call()
    assert call() == (["first"], ["second"]) and checkpoint.is_file()  # from which it goes on
    assert f"{path} is damaged" in capsys.readouterr().out and path.read_bytes() == data
    assert call() == ([], ["first", "second"])


def test_stages_can_be_chosen(call: Any) -> None:
    assert call(stages="second") == (["second"], [])
    assert call(stages=["extra"]) == (["extra"], [])
    # The second stage ran before the first had, so it does not count.
    assert call() == (["first", "second"], [])
    assert call(stages="second,first") == ([], ["first", "second"])
    with pytest.raises(UsageError, match="--stages has 'secund', expected some of .*; the nearest is second"):
        call(stages="secund")


def test_a_scale_chooses_stages_and_changes_them(toy: Path, tmp_path: Path) -> None:
    result = run_recipe(toy, "short", output_dir=tmp_path / "out")
    assert result["ran"] == ["second"]
    assert result["stages"][0]["metrics"]["epochs"] == 5
    assert run_recipe(toy, "short", output_dir=tmp_path / "out")["skipped"] == ["second"]
    text = CommandLineText("4")
    again = run_recipe(toy, "short", output_dir=tmp_path / "out", overrides={"train#trainer#max_epochs": text})
    assert again["stages"][0]["metrics"]["epochs"] == 4


def test_the_scale_decides_the_virtual_patients(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run_recipe(toy, "tiny", output_dir=out)
    assert first["ran"] == ["first", "second"]
    prepared = json.loads((out / "data" / "virtual" / "prepare.json").read_text())
    assert first["data_hash"] == prepared["data_hash"]
    assert run_recipe(toy, "tiny", output_dir=out)["ran"] == []
    more = run_recipe(toy, "tiny", output_dir=out, overrides={"virtual#n": CommandLineText("5")})
    assert more["ran"] == ["first", "second"] and more["data_hash"] != first["data_hash"]
    with pytest.raises(UnknownKey, match="--virtual#m .*the nearest is --virtual#n"):
        run_recipe(toy, "tiny", output_dir=out, overrides={"virtual#m": 3})


def test_the_default_folder_is_named_after_bundle_and_scale(toy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_recipe("toy/", "short")["output_dir"] == "runs/toy_short"
    assert Path("runs/toy_short/summary.json").is_file()


def test_weights_can_lie_elsewhere(call: Any, tmp_path: Path) -> None:
    call(ckpt_dir=tmp_path / "weights")
    assert (tmp_path / "weights" / "first.pt").is_file() and not (tmp_path / "out" / "models").exists()
    assert call(ckpt_dir=tmp_path / "weights") == ([], ["first", "second"])
    assert call() == (["first", "second"], [])


def test_overrides_reach_the_stages_that_have_them(call: Any, tmp_path: Path) -> None:
    call(overrides={"only_second": CommandLineText("7"), "train::trainer::max_epochs": CommandLineText("3")})
    first, second = (json.loads((tmp_path / "out" / name / "config.json").read_text()) for name in ("first", "second"))
    assert "only_second" not in first and second["only_second"] == 7
    assert first["train"]["trainer"]["max_epochs"] == second["train"]["trainer"]["max_epochs"] == 3
    with pytest.raises(UnknownKey, match="--only_second is neither"):
        call(overrides={"only_second": 7}, stages="first")
    with pytest.raises(UnknownKey, match="the nearest is --train#trainer#max_epochs"):
        call(overrides={"train#trainer#max_epoch": 7})


def test_a_failed_stage_is_not_finished_and_keeps_its_files(call: Any, tmp_path: Path) -> None:
    broken = {"train#trainer#loss_function": "$1 / 0"}
    with pytest.raises(RuntimeError):
        call(overrides=broken)
    folder = tmp_path / "out" / "first"
    assert not (folder / "finished.json").exists()
    (folder / "checkpoint.pt").write_text("half")
    with pytest.raises(RuntimeError):
        call(overrides=broken)
    assert (folder / "checkpoint.pt").exists()  # same configuration: can be resumed
    assert call() == (["first", "second"], [])
    assert not (folder / "checkpoint.pt").exists()  # other configuration: must not be


@pytest.mark.parametrize("folder", ["checkpoints", "resume"])
def test_the_checkpoints_of_an_interrupted_training_are_not_lost_to_a_changed_configuration(
    call: Any, tmp_path: Path, folder: str
) -> None:
    with pytest.raises(RuntimeError):
        call(stages="second", overrides={"run": ["$@train#trainer.run()", "$1 / 0"], "label": "old"})
    checkpoint = tmp_path / "out" / "second" / folder / "iteration_1.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(
        BadInput, match=r"interrupted training with label 'old' \(now 'none'\), run.*; expected the same"
    ):
        call(stages="second")
    assert checkpoint.is_file()
    with pytest.raises(RuntimeError):  # the same one goes on
        call(stages="second", overrides={"run": ["$@train#trainer.run()", "$1 / 0"], "label": "old"})
    assert checkpoint.is_file()


def test_what_a_killed_run_half_wrote_is_removed_before_a_stage_goes_on(call: Any, tmp_path: Path) -> None:
    """A bug: half a picture was taken for one by the page, which ended a run that could go on."""
    with pytest.raises(RuntimeError):
        call(stages="second", overrides={"run": ["$1 / 0"]})
    half = [tmp_path / "out" / "second" / "pictures" / ".part0123abcd_curve.png"]
    half += [tmp_path / "out" / "models" / ".part0123abcd_model.pt"]
    for path in half:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    call(stages="second")
    assert not any(path.exists() for path in half) and (tmp_path / "out" / "index.html").is_file()


def test_a_folder_in_use_is_refused(call: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(BadInput, match=f"is being written by process {os.getpid()}"):
        call()
    (tmp_path / "out" / ".lock").write_text("99999999 1")  # of a process that is gone
    assert call() == (["first", "second"], [])


def test_a_scale_of_several_overlays(call: Any, toy: Path, caplog: Any) -> None:
    """A size, then data sets and methods; an old name goes on working, with a sentence."""
    (toy / "configs" / "method.json").write_text(json.dumps({"label": "of method"}))
    job = merged_stage(open_bundle(toy), "first", "tiny+method", {})
    assert job.config["label"] == "of method"
    assert [Path(file).name for file in job.files][-2:] == ["tiny.json", "method.json"]
    change(toy / "configs" / "recipe.json", renamed={"small": "tiny+method"})
    assert merged_stage(open_bundle(toy), "first", "small", {}).config == job.config
    assert "--scale small is now called tiny+method" in caplog.text
    call(scale="tiny+method", stages="first")
    with pytest.raises(UsageError, match="--scale is 'tiny.nowhere', expected one of paper, "):
        call(scale="tiny+nowhere")


def test_wrong_scale_and_missing_data(call: Any, toy: Path, tmp_path: Path) -> None:
    bundle = open_bundle(toy)
    assert scale_names(bundle, read_recipe(bundle)) == ["paper", "demo", "short", "tiny"]
    with pytest.raises(UsageError, match="--scale is 'tinny', expected one of paper, .*; the nearest is tiny"):
        call(scale="tinny")
    with pytest.raises(UsageError, match="expected --dataset_dir"):
        call(dataset_dir=None)
    with pytest.raises(BadInput, match=f"does not exist.*nearest is {tmp_path / 'data'}"):
        call(dataset_dir=tmp_path / "dat")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('{"steps": []}', "is not a recipe"),
        ('{"stages": [{"name": "a", "config": [], "wrong": 1}]}', "is not a recipe .*wrong"),
        ('{"stages": [{"name": "a", "config": ["b"]}, {"name": "a", "config": ["b"]}]}', "lists .* no name twice"),
        ('{"stages": [{"name": "models", "config": ["train.json"]}]}', "names a stage 'models'"),
        ('{"stages": [{"name": "../a", "config": ["train.json"]}]}', "names a stage"),
        ('{"stages": [{"name": "a", "config": "train.json"}]}', "has no list of configuration files for stage 'a'"),
    ],
)
def test_a_bad_recipe_is_named(toy: Path, text: str, reason: str) -> None:
    (toy / "configs" / "recipe.json").write_text(text)
    with pytest.raises(BadInput, match=rf"recipe\.json: {reason}"):
        read_recipe(open_bundle(toy))


def test_a_stage_can_be_limited_to_scales(toy: Path, tmp_path: Path) -> None:
    stages = json.loads((toy / "configs" / "recipe.json").read_text())["stages"]
    stages[1]["scales"] = ["paper"]
    change(toy / "configs" / "recipe.json", stages=stages)
    assert run_recipe(toy, "tiny", output_dir=tmp_path / "out")["ran"] == ["second"]


def test_the_recipe_itself_may_not_misspell(toy: Path, call: Any) -> None:
    stages = [{"name": "first", "config": ["train.json"], "overrides": {"optimizer#lrr": 1}}]
    (toy / "configs" / "recipe.json").write_text(json.dumps({"stages": stages}))
    with pytest.raises(UnknownKey, match=r"recipe.json\); the nearest is --optimizer#lr"):
        call()


def test_seeds_make_a_stage_repeatable(call: Any, tmp_path: Path) -> None:
    def weight(name: str) -> float:
        history = json.loads((tmp_path / name / "second" / "history.json").read_text())
        return history["metrics"]["weight"]

    call(output_dir=tmp_path / "a")
    call(output_dir=tmp_path / "b", stages="second")  # alone it starts from the same seed
    call(output_dir=tmp_path / "c", seed=1)
    assert weight("a") == weight("b") != weight("c")


def test_a_stage_like_another_has_what_the_scale_says_of_that_one(toy: Path) -> None:
    recipe = json.loads((toy / "configs" / "recipe.json").read_text())["stages"]
    same = recipe[-1] | {"name": "third", "like": "second"}
    change(toy / "configs" / "recipe.json", stages=[*recipe, same])
    found = merged_stage(open_bundle(toy), "third", "short", {})
    assert found.config["train"]["trainer"]["max_epochs"] == 5
    change(toy / "configs" / "recipe.json", stages=[*recipe, same | {"like": "secnd"}])
    with pytest.raises(BadInput, match="has stage 'third' like 'secnd', expected one of extra, first, second, third"):
        read_recipe(open_bundle(toy))
