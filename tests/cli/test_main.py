import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ignite.engine import Engine

from common.apps.run.bundle import CommandLineText, open_bundle
from common.cli.main import VERBS, main
from common.cli.parse import Group
from tests.toy_bundle import make_manifest, make_toy_bundle

REPOSITORY = Path(__file__).parents[2]


def python_m_common(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "common", *words], capture_output=True, text=True, cwd=REPOSITORY)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy_bundle(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for predict and evaluate, which have tests of their own; collects their arguments."""
    calls: list[Any] = []

    def predict(bundle: str, input: str, output_dir: str, ckpt_dir: str | None, overrides: dict, *where: Any) -> dict:
        assert where == (1, "local", None)
        calls.append((bundle, input, output_dir, ckpt_dir, overrides))
        open_bundle(bundle).config("inference", overrides=overrides)
        return {"outputs": [f"{output_dir}/a.nii.gz"]}

    def evaluate(bundle: str, input: str, output_dir: str, ckpt_dir: str | None, options: dict) -> dict:
        calls.append((bundle, input, output_dir, ckpt_dir, options))
        rows = [{"mode": "linear", "psnr": 30.0}]
        return {"metrics": rows, "result": rows, "not_run": {"refiner": "no weights"}, "page": "out/index.html"}

    for name, function in (("predict", predict), ("run.evaluate", evaluate)):
        module = ModuleType(f"common.apps.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_help_is_instant_because_it_imports_nothing_heavy() -> None:
    done = python_m_common("--help")
    assert done.returncode == 0 and done.stderr == ""
    for name in VERBS:
        assert f"\n  {name}" in done.stdout
    verbs = [[n, sub] for n, verb in VERBS.items() for sub in (verb.verbs if isinstance(verb, Group) else [""])]
    code = f"import sys; from common.cli.main import main; [main([*filter(None, w), '--help']) for w in {verbs}]; "
    code += "sys.exit(bool({'torch', 'monai', 'numpy', 'fire'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True).returncode == 0


def test_exit_codes_of_the_program(tmp_path: Path) -> None:
    assert python_m_common().returncode == 0
    wrong = python_m_common("predcit")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1 and wrong.stderr.endswith("the nearest is predict\n")


def test_every_verb_has_help_worth_reading(capsys: Any) -> None:
    for name, verb in VERBS.items():
        for words in [[name, sub] for sub in verb.verbs] if isinstance(verb, Group) else [[name]]:
            assert main([*words, "--help"]) == 0
            text = capsys.readouterr().out
            assert text.startswith(f"python -m common {' '.join(words)} ")
            assert "Arguments:" in text and "Examples:" in text and "--json" in text
            assert all(len(line) <= 120 for line in text.splitlines())


def test_a_step_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    assert main(["prepare", "mimic_cxr", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    files = ("selected_images.csv", "impressions.csv", "chexpert.csv", "phase_a.jsonl", "ehr.jsonl", "curriculum_train")
    assert "--step NAME" in shown and all(file in shown for file in files) and "(default: 10003)" in shown
    virtual, out = str(tmp_path / "virtual"), str(tmp_path / "out")
    words = "--layout mimic_cxr --n 8 --shape 16,32,32 --spacing 9,10,11 --output_dir".split()
    assert main(["prepare", "virtual", *words, virtual]) == 0
    step = ["prepare", "mimic_cxr", "--input", virtual, "--output_dir", out, "--step"]
    assert main([*step, "curriculum"]) == 1
    assert "phase_a.jsonl: is missing or was changed, run first: python -m common" in capsys.readouterr().err
    assert main([*step, "all", "--split_by_patient", "0.5", "--without_ehr", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line[0] != " "] == [
        "subset", "impressions", "chexpert", "manifest", "ehr", "curriculum",
    ]  # fmt: skip
    assert re.search(r"curriculum: \d+ train rows, \d+ train stage_a, \d+ train stage_b, ", "\n".join(lines))
    assert "  of the document: 10142 rows train, 1125 rows val, 81 mb" in lines
    assert main([*step, "subset", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"]["subset"]["done"] is True
    assert main([*step, "subset", "--download", "maybe"]) == 2
    assert capsys.readouterr().err == "--download is 'maybe', expected true or false\n"


def test_help_with_a_bundle_tells_what_is_in_it(toy: Path, capsys: Any) -> None:
    assert main(["predict", str(toy), "--help"]) == 0
    assert '--mode             "linear"' in capsys.readouterr().out
    assert main(["run", str(toy), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Scales of toy: paper, demo, short, tiny" in shown
    assert "Stages of toy: extra (optional), first, second" in shown
    assert main(["run", str(toy) + "s", "--help"]) == 1


def test_run(toy: Path, tmp_path: Path, capsys: Any) -> None:
    data = make_manifest(tmp_path / "data")
    words = ["run", str(toy), "--dataset_dir", str(data), "--output_dir", str(tmp_path / "out"), "--stages", "first"]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"{toy}: would run what was not reviewed (configs/train.json: import: ")
    words.append("--trust")
    assert main([*words, "--train#trainer#max_epochs", "2", "--label", "007"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 stages run, 0 skipped, see")
    assert main([*words, "--train#trainer#max_epochs", "2", "--label", "007", "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["skipped"] == ["first"] and result["stages"][0]["metrics"]["epochs"] == 2
    assert "nothing changed" in shown.err
    assert json.loads((tmp_path / "out" / "first" / "config.json").read_text())["label"] == "007"


UNKNOWN = "is neither an option nor a configuration id of the stages of this run; the nearest is"
MISTAKES = {
    "run {toy}s": (1, "{toy}s: does not exist, expected a folder with configs/; the nearest is {toy}."),
    "run {toy}": (2, "this scale has no virtual patients, expected --dataset_dir with a folder of data"),
    "run {toy} --scale tinyy": (
        2,
        "--scale is 'tinyy', expected one of paper, demo, short, tiny, or several joined by +; the nearest is tiny",
    ),
    "run {toy} --dataset_dir {toy}x": (1, "{toy}x: does not exist, expected a folder of data, or one that prepare"),
    "run {toy} --datset_dir x": (2, f"--datset_dir {UNKNOWN} --dataset_dir"),
    "run {toy} --max_epoch 3": (2, f"--max_epoch {UNKNOWN} --train#trainer#max_epochs"),
    "prepare virtual --layout nifty --output_dir {toy}/v": (2, "layout is 'nifty', expected one of nifti"),
    "prepare virtual --output_dir {toy}/v --shape 3,4": (2, "--shape is '3,4', expected three whole numbers Z,Y,X"),
    "prepare virtual --output_dir {toy}/v --n 0": (1, "n 0 is not a whole number of at least 1."),
    "prepare ct --input {toy}/configz --output_dir {toy}/v": (
        1,
        "{toy}/configz: does not exist, expected a folder of CTs (--input); the nearest is {toy}/configs.",
    ),
    "prepare ct --input {toy} --output_dir {toy}/../v --engine rya": (2, "--engine is 'rya', expected local or ray"),
    "predict {toy} --input {toy} --output_dir o --workers 0": (2, "--workers is 0, expected at least 1"),
    "predict {toy} --input {toy}/configz --output_dir o": (
        1,
        "{toy}/configz: does not exist, expected a CT, an X-ray, or a folder of them (--input); the nearest is "
        "{toy}/configs.",
    ),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_get_one_sentence(toy: Path, words: str, capsys: Any, monkeypatch: Any) -> None:
    code, message = MISTAKES[words]
    monkeypatch.chdir(toy.parent)
    trust = ["--trust"] if words.startswith("run {toy} ") or words == "run {toy}" else []
    assert main([*words.format(toy=toy).split(), *trust]) == code
    shown = capsys.readouterr()
    assert not (toy.parent / "runs").exists()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith(message.format(toy=toy))


def test_an_error_inside_a_stage_is_a_sentence_too(toy: Path, tmp_path: Path, capsys: Any) -> None:
    words = [
        "run",
        str(toy),
        "--dataset_dir",
        str(make_manifest(tmp_path / "data")),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    words += ["--train#trainer#loss_function", "$1 / 0", "--trust"]
    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "ZeroDivisionError: division by zero; --debug shows where"
    with pytest.raises(RuntimeError):
        main([*words, "--debug"])


def test_interrupting_is_no_traceback(toy: Path, monkeypatch: Any, capsys: Any) -> None:
    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("common.apps.run.recipe.run_recipe", interrupt)
    assert main(["run", str(toy), "--trust"]) == 1
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("common.apps.predict.predict", ["predict", "{toy}", "--input", "{toy}", "--output_dir", "out"]),
        ("common.apps.text.label.label_table", ["label", "cxr", "t.csv", "--text_columns", "a", "--out", "o.csv"]),
        ("common.apps.packaging.pack.pack_bundle", ["pack", "{toy}", "--out", "o", "--trust"]),
    ],
)
def test_an_interrupted_verb_that_starts_again_promises_nothing_else(
    toy: Path, monkeypatch: Any, capsys: Any, target: str, words: list[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupt)
    assert main([word.format(toy=toy) for word in words]) == 1
    said = "interrupted; what it has written stays, and the same command does all of it again\n"
    assert capsys.readouterr().err == said


def test_what_resumes_says_so() -> None:
    groups = [(name, verb.verbs if isinstance(verb, Group) else {name: verb}) for name, verb in VERBS.items()]
    resuming = {name for name, verbs in groups for verb in verbs.values() if verb.resumes}
    assert resuming == {"demo", "run", "tune", "prepare"}


def test_an_engine_that_ends_with_an_error_does_not_say_so_before_the_sentence(
    monkeypatch: Any, capsys: Any, toy: Path
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        engine = Engine(lambda engine, batch: engine.nothing)
        try:
            engine.run([1])
        except AttributeError as error:
            raise RuntimeError(f"applying transform {engine}") from error

    shown, everything = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(shown), logging.StreamHandler(everything)]
    handlers[0].setLevel(logging.INFO)
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    monkeypatch.setattr("common.apps.predict.predict", failing)
    assert main(["predict", str(toy), "--input", str(toy), "--output_dir", "out"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "0x" not in err and "has no attribute 'nothing'" in err
    assert "exception" not in shown.getvalue() and "exception" in everything.getvalue()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:99", "--device is 'cuda:99', which this machine does not have"),
        ("gpu", "--device is 'gpu', expected a device of PyTorch, such as --device cpu"),
        ("cpu:x", "--device is 'cpu:x', expected a device of PyTorch"),
    ],
)
def test_a_device_that_is_not_there(toy: Path, capsys: Any, device: str, said: str) -> None:
    config = toy / "configs" / "train.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"device": "cpu"}))
    assert main(["run", str(toy), "--device", device, "--trust"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(said) and "--device cpu" in err and err.count("\n") == 1


def test_prepare(tmp_path: Path, capsys: Any) -> None:
    made = tmp_path / "virtual"
    words = ["prepare", "virtual", "--layout", "nifti", "--output_dir", str(made), "--n", "3"]
    assert main([*words, "--shape", "16,32,32", "--spacing", "9,10,10"]) == 0
    assert capsys.readouterr().out == (
        f"3 cases of 3 patients (1 train, 1 val, 1 test): {made.resolve() / 'manifest.csv'}\n"
    )
    (made / "images" / "broken.nii.gz").write_bytes(b"")
    prepared = tmp_path / "prepared"
    words = ["prepare", "nifti", "--input", str(made / "images"), "--output_dir", str(prepared)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["bad"] == 1
    assert main([*words, "--strict", "false"]) == 0
    assert "1 left out, with reasons" in capsys.readouterr().out
    assert main([*words, "--strict"]) == 1
    assert "has 1 bad inputs and strict was asked for" in capsys.readouterr().err


def test_predict(toy: Path, tmp_path: Path, asked: list[Any], capsys: Any) -> None:
    words = ["predict", str(toy), "--input", str(tmp_path), "--output_dir", "out"]
    assert main([*words, "--target_spacing", "1.0", "--mode", "cubic"]) == 0
    assert asked == [(str(toy), str(tmp_path), "out", None, {"target_spacing": "1.0", "mode": "cubic"})]
    assert isinstance(asked[0][4]["mode"], CommandLineText)
    assert capsys.readouterr().out == "out/a.nii.gz\n"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"outputs": ["out/a.nii.gz"]}
    assert main([*words, "--target_spaceing", "1"]) == 2
    assert capsys.readouterr().err.endswith("inference.json; the nearest is --target_spacing\n")
    assert main([*words, "--chpt_dir", "x"]) == 2
    assert capsys.readouterr().err.endswith("inference.json; the nearest is --ckpt_dir\n")


def test_evaluate(toy: Path, tmp_path: Path, asked: list[Any], capsys: Any) -> None:
    words = ["evaluate", str(toy), "--input", str(tmp_path), "--output_dir", "out", "--ckpt_dir", str(tmp_path)]
    assert main([*words, "--ratio", "4", "--modes", "linear,refiner", "--n_samples", "2"]) == 0
    options = {"ratio": "4", "modes": "linear,refiner", "n_samples": "2"}
    assert asked == [(str(toy), str(tmp_path), "out", str(tmp_path), options)]
    shown = capsys.readouterr().out
    assert "linear" in shown and "refiner was not run: no weights" in shown


def test_demo(monkeypatch: Any, tmp_path: Path) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("common.apps.run.demo.run_demo", lambda *given: calls.append(given) or {})
    assert main(["demo"]) == 0
    assert main(["demo", "--bundle", "toy", "--output_dir", str(tmp_path), "--trust"]) == 0
    assert calls == [("ct_slice_interpolation", "runs/demo"), ("toy", str(tmp_path))]
