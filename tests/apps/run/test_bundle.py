import json
from pathlib import Path

import pytest

from common.apps.run.bundle import (
    CommandLineText,
    UnknownKey,
    config_ids,
    cpu_count,
    merged_config,
    missing,
    nearest,
    open_bundle,
    parse_value,
    read_overrides,
)
from common.io.bad_input import BadInput
from tests.toy_bundle import TRAIN, make_toy_bundle


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy_bundle(tmp_path)


def test_a_bundle_is_found_by_path_and_by_name(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_bundle(f"{toy}/").root == toy
    assert open_bundle(toy).name == "toy"
    (toy.parent / "bundles").mkdir()
    toy.rename(toy.parent / "bundles" / "toy")
    monkeypatch.chdir(toy.parent)
    assert open_bundle("toy").root == Path("bundles/toy")
    monkeypatch.chdir("bundles/toy")
    assert open_bundle(".").name == "toy"


def test_a_wrong_bundle_names_the_nearest(toy: Path) -> None:
    with pytest.raises(BadInput, match=rf"does not exist.*nearest is {toy}\."):
        open_bundle(toy.parent / "toi")
    (toy.parent / "toys").mkdir()
    with pytest.raises(BadInput, match="toys: is not a bundle"):
        open_bundle(toy.parent / "toys")


def test_config_merges_files_sizes_of_the_checkpoint_and_overrides(toy: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "network.json").write_text(json.dumps({"layer_def#in_features": 7, "layer_def#out_features": 3}))
    overrides = {"layer_def::out_features": CommandLineText("2"), "mode": "cubic"}
    parser = open_bundle(toy).config("inference", ckpt_dir=weights, overrides=overrides)
    assert [parser.get_parsed_content(f"{name}") for name in ("ckpt_dir", "bundle_root")] == [str(weights), str(toy)]
    layer = parser.get_parsed_content("layer_def")
    assert (layer.in_features, layer.out_features) == (7, 2)
    assert parser.get_parsed_content("mode") == "cubic"
    assert parser["_meta_"]["name"] == "toy"
    assert open_bundle(toy).config("inference").get_parsed_content("ckpt_dir") == str(toy / "models")


def test_config_refuses_what_is_not_there(toy: Path, tmp_path: Path) -> None:
    bundle = open_bundle(toy)
    with pytest.raises(BadInput, match="weigths: does not exist"):
        bundle.config("inference", ckpt_dir=tmp_path / "weigths")
    (tmp_path / "model.pt").touch()
    with pytest.raises(BadInput, match=r"model.pt: is a file, expected a folder with model.pt \(--ckpt_dir\)"):
        bundle.config("inference", ckpt_dir=tmp_path / "model.pt")
    with pytest.raises(BadInput, match=r"inferense.json: .*nearest is .*inference.json"):
        bundle.config("inferense")
    with pytest.raises(UnknownKey, match="--target_spaicng .*inference.json; the nearest is --target_spacing"):
        bundle.config("inference", overrides={"target_spaicng": 1})


def test_a_damaged_configuration_is_named(toy: Path) -> None:
    (toy / "configs" / "first.json").write_text("{")
    with pytest.raises(BadInput, match="first.json: is not a JSON configuration"):
        merged_config([toy / "configs" / "train.json", toy / "configs" / "first.json"])
    (toy / "configs" / "first.json").write_text('{"nothing#here": 1}')
    with pytest.raises(BadInput, match="first.json: cannot be merged.*nothing"):
        merged_config([toy / "configs" / "train.json", toy / "configs" / "first.json"])


@pytest.mark.parametrize(
    ("text", "current", "value"),
    [
        ("3", 1, 3),
        ("1e-4", 1, 1e-4),
        ("-3", 1, -3),
        ("3", None, 3),
        ("true", False, True),
        ("False", True, False),
        ("null", 3, None),
        ("None", "x", None),
        ("000123", None, "000123"),  # an id
        ("123", "abc", "123"),  # text stays text
        ("true", "abc", "true"),
        ("123", "$@other", 123),
        ("a,b", None, "a,b"),
        ("a,b", ["c"], "a,b"),
        ("1.5,1,1", [1, 1, 1], [1.5, 1, 1]),
        ("[1,2]", [1], [1, 2]),
        ("[a,b]", ["c"], ["a", "b"]),
        ("{a: 1}", {}, {"a": 1}),
        ("$@seed + 1", 3, "$@seed + 1"),
        ("@seed", 3, "@seed"),
        ("data/ct", None, "data/ct"),
    ],
)
def test_values_are_read_as_monai_reads_them(text: str, current: object, value: object) -> None:
    found = parse_value(text, current)
    assert found == value and type(found) is type(value)


def test_overrides_are_checked_against_the_configurations() -> None:
    text = CommandLineText
    given = {"train#trainer#max_epochs": text("3"), "rates::1": text("0.5"), "label": text("7"), "seed": 5}
    wanted = {"train#trainer#max_epochs": 3, "rates#1": 0.5, "label": "7", "seed": 5}
    assert read_overrides(given, [TRAIN], "train.json") == wanted
    # An argument that a section leaves out, and MONAI's own keys, are no misspellings.
    extra = {"train#trainer#amp": text("true"), "train#dataset#_disabled_": text("true"), "network#bias": text("false")}
    assert read_overrides(extra, [TRAIN], "train.json") == {
        "train#trainer#amp": True,
        "train#dataset#_disabled_": True,
        "network#bias": False,
    }


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("train#trainer#max_epoch", "train#trainer#max_epochs"),
        ("max_epochs", "train#trainer#max_epochs"),
        ("trian#trainer#max_epochs", "train#trainer#max_epochs"),
        ("lable", "label"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UnknownKey, match=f"--{key} is neither .* train.json; the nearest is --{near}$"):
        read_overrides({key: 1}, [TRAIN], "train.json")


def test_nearest_and_missing(tmp_path: Path) -> None:
    assert nearest("predcit", ["run", "predict"]) == "predict"
    assert nearest("zzz", ["run", "predict"]) is None
    (tmp_path / "lung_scans" / "a").mkdir(parents=True)
    assert str(missing(tmp_path / "lung_scan" / "a", "CTs")).endswith(f"nearest is {tmp_path / 'lung_scans'}.")
    assert str(missing(tmp_path / "lung_scans" / "zzz", "CTs")).endswith("does not exist, expected CTs.")


def test_config_ids_are_those_of_monai() -> None:
    ids = set(config_ids({"a": {"b": [1, {"c": 2}]}, "_meta_": {"x": 1}}))
    assert ids == {"a", "a#b", "a#b#0", "a#b#1", "a#b#1#c"}


def test_cpu_count() -> None:
    assert cpu_count() >= 1
