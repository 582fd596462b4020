"""Broken and malicious bundles, each made from a packed one by a single change."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from common.apps.packaging.check import check_bundle
from common.apps.packaging.pack import pack_bundle, write_zip
from common.cli.main import main
from common.io.bad_input import BadInput

BUNDLE = Path("bundles/ct_slice_interpolation")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    torch.save({"refiner.weight": torch.ones(2)}, weights / "model.pt")
    return Path(pack_bundle(BUNDLE, tmp_path_factory.mktemp("packed"), weights)["folder"])


@pytest.fixture
def bundle(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / packed.name)


def test_own_bundles_and_their_packed_copies_have_no_findings(packed, tmp_path):
    for folder in sorted(Path("bundles").iterdir()):
        assert check_bundle(folder) == []
    assert check_bundle(packed) == []
    write_zip(packed, tmp_path / "packed.zip")
    assert check_bundle(tmp_path / "packed.zip") == []


def edit(name, **ids):
    """Set ids at the top of a configuration file."""

    def change(root):
        file = root / "configs" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | ids))

    return change


def expression(text):
    return edit("inference.json", seed=f"${text}")


def target(name, /, **more):
    return edit("inference.json", extra={"_target_": name, **more})


def imports(statement, use=None):
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    ids = {"imports": [*config["imports"], f"${statement}"]}
    return edit("inference.json", **ids, **({"seed": f"${use}"} if use else {}))


def write(name, content=b"x"):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def remove(name):
    return lambda root: (root / name).unlink()


def replace(name, old, new):
    def change(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def metadata(**keys):
    return edit("metadata.json", **keys)


def without(name, key):
    def change(root):
        file = root / "configs" / name
        config = json.loads(file.read_text())
        *parents, last = key.split("#")
        section = config
        for parent in parents:
            section = section[parent]
        del section[last]
        file.write_text(json.dumps(config))

    return change


def weights(content):
    return lambda root: torch.save(content, root / "models" / "model.pt")


class Runs:
    def __reduce__(self):
        return os.system, ("true",)


def scripted(root):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(root / "models" / "model.pt"))


def link(root):
    (root / "docs" / "secret.txt").symlink_to("/etc/hostname")


LARGE = "large_files:\n- path: {path}\n  url: {url}\n  hash_val: {hash}\n  hash_type: {kind}\n"


def large(path="models/model.pt", url="https://host/model.pt", hash="ab", kind="sha256"):  # noqa: A002
    return write("large_files.yml", LARGE.format(path=path, url=url, hash=hash, kind=kind))


CASES = {
    # targets
    "target of a program": (target("subprocess.Popen", args=["true"]), "target"),
    "target of the shell": (target("os.system", command="true"), "target"),
    "target that is a builtin": (target("eval", source="1"), "target"),
    "target of the bundle's own": (target("evil.run"), "target"),
    "target of the torch hub": (target("torch.hub.load", repo_or_dir="x"), "target"),
    "target that unpickles": (target("torch.load", f="x"), "target"),
    "target that downloads": (target("download_and_extract", url="x"), "target"),
    "target that runs another bundle": (target("monai.bundle.run", config_file="x"), "target"),
    "target that imports anything": (target("monai.data.utils.optional_import", module="os"), "target"),
    "target that runs a command": (target("monai.utils.misc.run_cmd", args=["true"]), "target"),
    "target with remote calls": (target("torch.distributed.rpc.init_rpc", name="x"), "target"),
    "target through an imported module": (target("monai.data.utils.os.system"), "target"),
    "target through a module of the library": (target("scripts.common.io.output_folder.os.remove"), "target"),
    "target that the library imports": (target("scripts.common.io.output_folder.contextmanager"), "target"),
    "target that is a command of the library": (target("common.cli.main.main", argv=["demo"]), "target"),
    "target that packs": (target("common.apps.packaging.pack.pack_bundle", bundle="x"), "target"),
    "import through a module of the library": (
        imports("from common.io.output_folder import os", "os.remove('x')"),
        "import",
    ),
    "import of a module of the library": (
        imports("import common.data.ct.volume", "common.data.ct.volume.os.remove('x')"),
        "attribute",
    ),
    "import of a module of the library as a value": (
        imports("import common.data.manifest as tool", "[tool]"),
        "name",
    ),
    "target that is computed": (target("$'os.' + 'system'"), "target"),
    "target in an overlay": (edit("evaluate.json", **{"network_def#_target_": "subprocess.run"}), "target"),
    "target under the debugger": (target("torch.nn.Identity", _mode_="debug"), "target"),
    "target of the debugger in an overlay": (edit("demo.json", **{"loss#_mode_": "debug"}), "target"),
    # imports
    "import of os": (imports("import os", "os.getcwd()"), "import"),
    "import of a name from subprocess": (imports("from subprocess import run"), "import"),
    "import of files": (imports("from pathlib import Path", "Path('x').write_text('x')"), "import"),
    "import of the bundle's own code": (imports("import evil"), "import"),
    "import of importlib by another name": (imports("import importlib as json"), "import"),
    "import of two modules": (imports("import math, os"), "import"),
    "import and more": (imports("import math; import os"), "import"),
    "import of a builtin through a module": (imports("from monai.data.utils import os"), "import"),
    "import in another place": (edit("train.json", ratio="$import shutil"), "import"),
    # expressions
    "expression that imports": (expression("__import__('os').system('true')"), "name"),
    "expression with hidden attributes": (expression("().__class__.__base__.__subclasses__()"), "attribute"),
    "expression with hidden text": (expression("'{0.__class__}'.format(1)"), "expression"),
    "expression that evaluates": (expression("eval('1')"), "name"),
    "expression that opens": (expression("open('x', 'w')"), "name"),
    "expression with getattr": (expression("getattr(torch, 'h' + 'ub')"), "name"),
    "expression with globals": (expression("globals()"), "name"),
    "expression through torch's os": (expression("torch.os.system('true')"), "attribute"),
    "expression through torch's hub": (expression("torch.hub.load('x', 'y')"), "attribute"),
    "expression that unpickles": (expression("torch.load('x')"), "attribute"),
    "expression that compiles C++": (expression("torch.utils.cpp_extension.load('x', 'y')"), "attribute"),
    "expression that hands on a module": (expression("[torch]"), "name"),
    "expression that hands on an inner module": (expression("[torch.nn]"), "name"),
    "expression that renames a builtin": (expression("[eval for eval in [print]]"), "name"),
    "expression that writes": (expression("@network.path.write_text('x')"), "attribute"),
    "expression with frames": (expression("(x for x in ()).gi_frame"), "attribute"),
    "expression in a requirement": (target("torch.nn.Identity", _requires_="$exec('1')"), "name"),
    "expression in a switch": (target("torch.nn.Identity", _disabled_="$exit()"), "name"),
    "expression in a list of an overlay": (edit("demo.json", run=["$quit()"]), "name"),
    "expression that is none": (expression("1 +"), "expression"),
    # paths
    "path that is absolute": (edit("inference.json", input="/etc/passwd"), "path"),
    "path that leaves": (edit("train.json", dataset_dir="data/../../secret"), "path"),
    "path of a home": (edit("train.json", dataset_dir="~/.ssh"), "path"),
    "path of another system": (edit("train.json", dataset_dir="C:\\Users"), "path"),
    "path in an expression": (edit("train.json", dataset_dir="$str('/etc')"), "path"),
    "path in a macro": (edit("train.json", dataset_dir="%/tmp/evil.json::x"), "path"),
    "path of a page": (edit("train.json", dataset_dir="https://host/data"), "path"),
    "path through a link": (link, "path"),
    # files
    "code beside the bundle": (write("evil.py"), "code"),
    "code of its own": (write("scripts/evil.py"), "code"),
    "code added to the library": (write("scripts/common/evil.py"), "code"),
    "code that was changed": (write("scripts/common/data/seeds.py", "import os"), "code"),
    "code that is missing": (remove("scripts/common/data/seeds.py"), "code"),
    "code that is compiled": (write("scripts/common/data/seeds.so"), "code"),
    "pickle among the documents": (write("docs/x.pkl", pickle.dumps(Runs())), "code"),
    "YAML": (write("configs/train.yaml", "a: 1"), "json"),
    "weights that run code": (weights({"a": Runs()}), "weights"),
    "weights that are a network": (weights(torch.nn.Linear(1, 1)), "weights"),
    "weights that are a program": (scripted, "weights"),
    "weights that are no weights": (write("models/model.pt", "x"), "weights"),
    "weights with other things": (weights({"epoch": 3}), "weights"),
    "weights by http": (large(url="http://host/model.pt"), "weights"),
    "weights without a checksum": (large(kind="md5"), "weights"),
    "weights outside": (large(path="../model.pt"), "weights"),
    "logging to the network": (
        replace("configs/logging.conf", "class=StreamHandler", "class=handlers.SocketHandler"),
        "logging",
    ),
    "logging that runs code": (
        replace("configs/logging.conf", "args=(sys.stderr,)", "args=(__import__('os').system('true'),)"),
        "logging",
    ),
    # layout, metadata, standard ids
    "no licence": (remove("LICENSE"), "layout"),
    "no weights": (remove("models/model.pt"), "layout"),
    "no inference": (remove("configs/inference.json"), "layout"),
    "no JSON": (write("configs/evaluate.json", "{"), "json"),
    "JSON that is no object": (write("configs/evaluate.json", "[]"), "json"),
    "a key that hides another": (
        lambda root: write("configs/demo.json", '{"seed": 1, "seed": "$exec(1)"}')(root),
        "json",
    ),
    "metadata without a task": (without("metadata.json", "task"), "metadata"),
    "metadata that are run": (metadata(extra="$().__class__"), "attribute"),
    "metadata with a list of authors": (metadata(authors=["a"]), "metadata"),
    "metadata of a version without a change": (metadata(version="9.9.9"), "metadata"),
    "metadata with any version": (metadata(required_packages_version={"numpy": ">=1"}), "metadata"),
    "metadata without an output": (without("metadata.json", "network_data_format#outputs#pred"), "metadata"),
    "metadata with half a tensor": (without("metadata.json", "network_data_format#inputs#image#dtype"), "metadata"),
    "no network": (without("inference.json", "network_def"), "id"),
    "no trainer": (without("train.json", "train#trainer"), "id"),
    "a metric in another place": (
        replace("configs/train.json", '"@validate#key_metric"', '"@validate#additional_metrics"'),
        "id",
    ),
    "handlers that MONAI cannot look into": (
        replace("configs/train.json", '"handlers": [\n', '"handlers": ["@ema", \n'),
        "id",
    ),
}


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")  # the program among the weights
@pytest.mark.parametrize("name", CASES)
def test_each_is_caught(bundle, name):
    change, rule = CASES[name]
    change(bundle)
    findings = check_bundle(bundle)
    assert rule in {finding.rule for finding in findings}, [str(finding) for finding in findings]
    assert len(findings) <= 4, [str(finding) for finding in findings]


def test_nothing_of_the_bundle_runs(bundle, monkeypatch):
    (bundle / "evil.py").write_text("raise SystemExit('evil ran')")
    imports("import evil", "evil.run()")(bundle)
    edit("train.json", extra={"_target_": "evil.Thing"})(bundle)
    monkeypatch.syspath_prepend(str(bundle))
    monkeypatch.chdir(bundle)
    assert {"code", "import", "target"} <= {finding.rule for finding in check_bundle(bundle)}


@pytest.mark.parametrize("entry", ["../evil.py", "/evil.py", "C:/evil.py", "other/evil.txt", "b/../../evil.py"])
def test_entries_outside_a_zip(packed, tmp_path, entry):
    archive = tmp_path / "b.zip"
    write_zip(packed, archive)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(entry, "x")
    assert "path" in {finding.rule for finding in check_bundle(archive)}


def test_links_and_repeated_entries_in_a_zip(packed, tmp_path):
    archive = tmp_path / "b.zip"
    write_zip(packed, archive)
    entry = zipfile.ZipInfo(f"{packed.name}/docs/link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(entry, "/etc/passwd")
        file.writestr(f"{packed.name}/LICENSE", "another")
    assert [finding.rule for finding in check_bundle(archive)] == ["path", "path"]


def test_a_damaged_zip_and_no_zip_are_sentences(packed, tmp_path):
    archive = tmp_path / "b.zip"
    write_zip(packed, archive)
    content = bytearray(archive.read_bytes())
    content[2000] ^= 255
    archive.write_bytes(content)
    with pytest.raises((BadInput, zipfile.BadZipFile)):
        check_bundle(archive)
    archive.write_bytes(b"no zip")
    with pytest.raises(BadInput, match="is no zip"):
        check_bundle(archive)


def test_modules_and_scripts_can_be_allowed(bundle):
    target("monai.bundle.run", config_file="x")(bundle)
    write("scripts/own.py")(bundle)
    assert len(check_bundle(bundle)) == 2
    assert [finding.rule for finding in check_bundle(bundle, ["scripts"])] == ["target"]
    assert check_bundle(bundle, ["scripts", "monai.bundle"]) == []
    edit("train.json", extra={"_target_": "scripts.own.Thing"})(bundle)
    assert check_bundle(bundle, ["scripts", "monai.bundle"]) == []
    assert "target" in {finding.rule for finding in check_bundle(bundle, ["monai.bundle"])}


def test_the_command(bundle, capsys):
    assert main(["check", str(bundle)]) == 0
    target("os.system")(bundle)
    assert main(["check", str(bundle)]) == 1
    out, err = capsys.readouterr()
    assert "configs/inference.json: target: extra names os.system" in out and "has 1 finding" in err
    assert main(["check", str(bundle), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert (found["file"], found["rule"]) == ("configs/inference.json", "target")
    assert main(["check", str(bundle), "--allow", "os,posix"]) == 0
    assert main(["check", "--help"]) == 0
    assert "monai.transforms" in capsys.readouterr().out
