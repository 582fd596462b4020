"""The verbs with URLs of object storage; `memory://` stands for one that every machine sees."""

import csv
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from common.apps.run.prepare import prepare_virtual
from common.apps.run.recipe import run_recipe
from common.apps.run.remote_paths import takes_urls
from common.apps.run.stage_runner import StageRunner
from common.cli.main import main
from common.data.cxr.cases import read_cxr_cases
from common.engines.resume import ResumeHandler
from common.io import remote_folder
from common.io.remote_folder import fetch
from common.io.remote_store import Remote
from tests.bundles.test_mdfnet_cxr import BUNDLE, TINY
from tests.toy_bundle import make_manifest, make_toy_bundle

STORE = fsspec.filesystem("memory")
CT_BUNDLE = BUNDLE.parent / "ct_slice_interpolation"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test has a machine of its own: nothing is cached."""
    monkeypatch.delenv("THORAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("gc.collect", lambda: 0)


def files(folder: str) -> set[str]:
    start = "/" + folder.removeprefix("memory://") + "/"
    return {name.removeprefix(start) for name in STORE.find(start)}


class Killed(BaseException):
    pass


def die(patch: pytest.MonkeyPatch) -> None:
    """From now on nothing gets out of this machine."""
    patch.setattr(remote_folder._WorkingCopy, "publish", lambda self: None)
    raise Killed


def test_options_of_a_layout_are_read_too() -> None:
    STORE.pipe("/ehr/hosp/patients.csv", b"subject_id")
    STORE.pipe("/ehr/skip.txt", b"a")

    @takes_urls(reads=["ehr", "exclusion_list"])
    def reader(layout: str, **options: Any) -> dict[str, Any]:
        assert (Path(options["ehr"][0]) / "hosp" / "patients.csv").read_text() == "subject_id"
        assert Path(options["exclusion_list"]).read_text() == "a"
        return options

    given = {"ehr": ["memory://ehr"], "exclusion_list": "memory://ehr/skip.txt", "labeller": "negbio"}
    assert reader("mimic_cxr", **given) == given


# ---- run, on a toy -----------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    STORE.pipe("/toy/data/manifest.csv", (make_manifest(tmp_path / "data") / "manifest.csv").read_bytes())
    if STORE.exists("/toy/run"):
        STORE.rm("/toy/run", recursive=True)
    return make_toy_bundle(tmp_path)


def run_toy(toy: Path, **options: Any) -> dict[str, Any]:
    return run_recipe(toy, **({"dataset_dir": "memory://toy/data", "output_dir": "memory://toy/run"} | options))


def test_a_run_at_a_url_is_finished_for_another_machine_too(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["run", str(toy), "--dataset_dir", "memory://toy/data", "--output_dir", "memory://toy/run"]
    assert main([*words, "--trust"]) == 0
    assert "2 stages run, 0 skipped, see memory://toy/run/index.html" in capsys.readouterr().out
    assert {"summary.json", "index.html", "logs/train.log", "models/second.pt", "second/finished.json"} <= files(
        "memory://toy/run"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    again = run_toy(toy)
    assert (again["ran"], again["skipped"]) == ([], ["first", "second"])
    assert again["ckpt_dir"] == "memory://toy/run/models"
    STORE.pipe("/toy/data/manifest.csv", STORE.cat("/toy/data/manifest.csv").replace(b",0f", b",9f"))
    assert run_toy(toy)["ran"] == ["first", "second"]  # the data has changed


def test_weights_may_have_a_url_of_their_own(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"output_dir": tmp_path / "run", "ckpt_dir": "memory://toy/weights"}
    assert run_toy(toy, **places)["ran"] == ["first", "second"]
    assert files("memory://toy/weights") == {"first.pt", "second.pt"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert run_toy(toy, **places)["skipped"] == ["first", "second"]


def test_each_stage_is_there_before_the_next_begins(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = StageRunner._execute

    def die_in_the_second(self: StageRunner, job: Any, logging_file: Any) -> None:
        if job.name == "second":
            die(monkeypatch)
        execute(self, job, logging_file)

    monkeypatch.setattr(StageRunner, "_execute", die_in_the_second)
    with pytest.raises(Killed):
        run_toy(toy)
    assert {"first/finished.json", "models/first.pt", "second/started.json"} <= files("memory://toy/run")


@pytest.mark.parametrize(
    ("verb", "option", "url"),
    [
        ("run", "--dataset_dir", "memory://toy/dta"),
        ("run", "--dataset_dir", "memoy://toy/data"),
        ("predict", "--input", "memory://toy/dta"),
        ("predict", "--ckpt_dir", "memory://toy/nothing"),
        ("evaluate", "--input", "memory://toy/dta"),
        ("evaluate", "--output_dir", "memoy://toy/out"),
    ],
)
def test_a_mistyped_url_is_one_sentence(
    toy: Path, verb: str, option: str, url: str, capsys: pytest.CaptureFixture
) -> None:
    data = "--dataset_dir" if verb == "run" else "--input"
    options = {data: "memory://toy/data", "--output_dir": "memory://toy/run", option: url}
    assert main([verb, str(toy), "--trust", *(word for pair in options.items() for word in pair)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"{url}: ") and ("does not exist" in said[-1] or "unknown protocol" in said[-1])
    assert all(line.startswith("fetch ") for line in said[:-1] if line.strip())  # progress
    assert not files("memory://toy/run")


# ---- X-rays ------------------------------------------------------------------------------------------------------

SETTINGS = {key: value for key, value in TINY.items() if not key.startswith("virtual")}
MODEL = "memory://xray/whole/models"
SETTINGS |= {"ckpt_interval": 1, "max_epochs": 3, "stage_overrides#encoders#max_epochs": 1}


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared X-rays (data), a run of which the last stage is still to be done (run), the same with it (whole)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("first machine")))
        prepare_virtual("memory://xray/data", "mimic_cxr", 12, 0, (16, 32, 32), (9, 10, 11))
        places = {"dataset_dir": "memory://xray/data", "output_dir": "memory://xray/run"}
        assert run_recipe(BUNDLE, "demo", "encoders,features", **places, overrides=SETTINGS)["ran"]
        STORE.cp("/xray/run/", "/xray/whole/", recursive=True)
        places["output_dir"] = "memory://xray/whole"
        assert run_recipe(BUNDLE, "demo", "stage1", **places, overrides=SETTINGS)["ran"]
    return "memory://xray"


def test_a_prepared_folder_names_its_files_relative_to_itself(xrays: str) -> None:
    rows = list(csv.DictReader(STORE.cat("/xray/data/manifest.csv").decode().splitlines()))
    assert all(row["image"] in files("memory://xray/data") for row in rows)
    assert read_cxr_cases(fetch("memory://xray/data"), "test", views=None)


def test_a_killed_run_goes_on_elsewhere_and_ends_alike(
    xrays: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    places = {"dataset_dir": "memory://xray/data", "output_dir": "memory://xray/run"}
    save = ResumeHandler.save
    with monkeypatch.context() as patch:

        def save_and_die(self: ResumeHandler, engine: Any) -> None:
            save(self, engine)
            if engine.state.iteration >= 3:
                die(patch)

        patch.setattr(ResumeHandler, "save", save_and_die)
        with pytest.raises(Killed):
            run_recipe(BUNDLE, "demo", "stage1", **places, overrides=SETTINGS)
    left = files("memory://xray/run")
    assert "stage1/finished.json" not in left and any(name.startswith("stage1/resume/iteration_") for name in left)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    again = run_recipe(BUNDLE, "demo", "stage1", **places, overrides=SETTINGS)
    assert again["ran"] == ["stage1", "comparison"]
    assert "resumed after iteration 3" in STORE.cat("/xray/run/logs/train.log").decode()
    for name in ("models/model.pt", "stage1/checkpoints/best_mean.pt"):
        found, whole = (torch.load(fetch(f"memory://xray/{run}/{name}"), weights_only=True) for run in ("run", "whole"))
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole)
    # what the run removed is removed there, and what it keeps to itself is not there
    assert len([name for name in files("memory://xray/run") if name.startswith("stage1/resume/")]) == 1
    assert not any(name.startswith("cache/") for name in files("memory://xray/run"))


def test_predict(xrays: str, capsys: pytest.CaptureFixture) -> None:
    image = next(name for name in sorted(files("memory://xray/data")) if name.endswith(".jpg"))
    STORE.pipe("/xray/note.txt", b"Cough.")
    words = ["--input", f"memory://xray/data/{image}", "--note", "memory://xray/note.txt", "--ckpt_dir", MODEL]
    assert main(["predict", str(BUNDLE), *words, "--output_dir", "memory://xray/one"]) == 0
    case = Path(image).stem
    assert {"predictions.csv", f"{case}.json", f"{case}.png"} <= files("memory://xray/one")
    assert "memory://xray/one/predictions.csv" in capsys.readouterr().out.splitlines()
    assert json.loads(STORE.cat(f"/xray/one/{case}.json"))["modalities"] == ["vision", "text"]


def test_evaluate(xrays: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--input", "memory://xray/data", "--ckpt_dir", MODEL, "--output_dir", "memory://xray/eval", "--draws", "3"]
    assert main(["evaluate", str(BUNDLE), *words]) == 0
    assert {"metrics.csv", "metrics_mean.csv", "summary.json", "index.html"} <= files("memory://xray/eval")
    assert capsys.readouterr().out.splitlines()[-1] == "memory://xray/eval/index.html"


def test_a_manifest_may_name_its_images_by_urls(xrays: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("manifest.csv", "notes.csv", "clinical.csv"):
        (folder / name).write_bytes(STORE.cat(f"/xray/data/{name}"))
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"image": f"memory://xray/data/{row['image']}"} for row in rows)
    fetched: list[str] = []
    download = Remote.download
    monkeypatch.setattr(Remote, "download", lambda self, to: (fetched.append(self.url), download(self, to)))
    cases = read_cxr_cases(folder, "test")
    assert len(fetched) == len(cases) and all(Path(case["image"]).is_file() for case in cases)  # no other split
    assert len(read_cxr_cases(folder, "test")) == len(fetched)
    words = ["--input", str(folder), "--split", "test", "--ckpt_dir", MODEL, "--output_dir", str(tmp_path / "out")]
    assert main(["predict", str(BUNDLE), *words]) == 0
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == len(cases) + 1


# ---- CT ----------------------------------------------------------------------------------------------------------


def test_a_bundle_of_volumes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["prepare", "virtual", "--n", "3", "--shape", "12,32,32", "--spacing", "5,4,4"]
    assert main([*words, "--output_dir", "memory://ct/data"]) == 0
    places = ["--input", "memory://ct/data/images", "--output_dir", "memory://ct/thin"]
    assert main(["predict", str(CT_BUNDLE), *places, "--mode", "linear", "--target_slices", "24"]) == 0
    assert len(files("memory://ct/thin")) == 3
    places = ["--input", "memory://ct/data", "--output_dir", "memory://ct/eval"]
    assert main(["evaluate", str(CT_BUNDLE), *places, "--modes", "nearest,linear", "--ratio", "2"]) == 0
    assert {"metrics.csv", "index.html"} <= files("memory://ct/eval")
