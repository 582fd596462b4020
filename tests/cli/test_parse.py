import inspect
from pkgutil import resolve_name
from typing import Any

import pytest

from common.apps.run.bundle import CommandLineText, UsageError
from common.cli.main import VERBS as PROGRAM
from common.cli.main import sentence
from common.cli.parse import Call, Group, Verb, help_of, help_of_all, parse_call
from common.io.bad_input import BadInput


def paint(
    bundle: str,
    output_dir: str,
    n: int = 3,
    scale: float = 1.5,
    strict: bool = False,
    ids: str | None = None,
    **overrides: str,
) -> None:
    """Paint a bundle.

    The second paragraph says more.

    Args:
        bundle: folder
        output_dir: DIR created,
            if need be
        n: N how often
        scale: how large
        strict: refuse
        ids: A,B which
        overrides: changes a value

    Examples:
        python -m common paint b --output_dir d
    """


def plain(name: str, seed: int = 0) -> None:
    """Do a plain thing.

    Args:
        name: NAME of it
        seed: N that is 100 % its own
    """


VERBS = {"paint": Verb(paint, "paint"), "do": Group("Do things.", {"plain": Verb(plain, "do plain")})}


def arguments(line: str) -> dict[str, Any]:
    return parse_call(line.split(), VERBS).arguments


def test_words_become_typed_arguments() -> None:
    line = "paint b --output_dir d --n 5 --scale 2 --strict --ids 000123 --train#trainer#max_epochs 3 --x=a,b --y -3"
    found = arguments(line)
    assert found == {
        "bundle": "b",
        "output_dir": "d",
        "n": 5,
        "scale": 2.0,
        "strict": True,
        "ids": "000123",
        "train#trainer#max_epochs": "3",
        "x": "a,b",
        "y": "-3",
    }
    assert isinstance(found["x"], CommandLineText) and not isinstance(found["ids"], CommandLineText)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("paint b d --ids a,b", "ids", "a,b"),
        ("paint b d --ids [1,2]", "ids", "[1,2]"),
        ("paint b d --ids None", "ids", "None"),
        ("paint b 007", "output_dir", "007"),
        ("paint --output-dir d b", "output_dir", "d"),
        ("paint b d --strict false", "strict", False),
        ("paint b d --strict=FALSE", "strict", False),
        ("paint b d --nostrict", "strict", False),
        ("paint b d --no-strict", "strict", False),
        ("paint b d --strict --n 2", "strict", True),
        ("paint b d --amp", "amp", "True"),
        ("paint b d --nodes", "nodes", "True"),
        ("paint b d --train::lr 1e-4", "train::lr", "1e-4"),
        ("paint b d --name=a=b", "name", "a=b"),
        ("do plain 1e5", "name", "1e5"),
        ("do plain --name x#y", "name", "x#y"),
        ("paint b d --lr -1e-4", "lr", "-1e-4"),
        ("paint b d --shift -1,2,3", "shift", "-1,2,3"),
        ("paint b d --scale -.5", "scale", -0.5),
        ("paint b d --_meta_#version -", "_meta_#version", "-"),
    ],
)
def test_text_stays_text(line: str, name: str, value: Any) -> None:
    assert arguments(line)[name] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pait b d", "'pait' is no verb, expected one of paint, do; the nearest is paint"),
        ("--n 3 paint", "'--n' is no verb, expected one of paint, do"),
        ("do", "do needs one of plain, as in: python -m common do plain --help"),
        ("do plan x", "do has no 'plan', expected one of plain; the nearest is plain"),
        ("paint", "paint needs BUNDLE, see python -m common paint --help"),
        ("paint b", "paint needs --output_dir, see python -m common paint --help"),
        ("paint b --ouptut_dir d", "paint has no option --ouptut_dir; the nearest is --output_dir"),
        ("do plain x --nam y", "do plain has no option --nam; the nearest is --name"),
        ("paint b d e", "paint has no use for 'e', see python -m common paint --help"),
        ("paint b d -- --trace", "paint has no use for '--', see python -m common paint --help"),
        ("paint b --output_dir --n 3", "--output_dir needs a value"),
        ("paint b d --n", "--n needs a value"),
        ("paint b d --n x", "--n is 'x', expected a whole number"),
        ("paint b d --n 1.5", "--n is '1.5', expected a whole number"),
        ("paint b d --scale x", "--scale is 'x', expected a number"),
        ("paint b d --strict maybe", "--strict is 'maybe', expected true or false"),
        ("paint b --output_dir=", "--output_dir is empty"),
        ("paint b d --n 1 --n 2", "--n is given twice"),
        ("paint b d --strict --no-strict", "--strict is given twice"),
    ],
)
def test_wrong_usage_is_one_sentence(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_call(line.split(), VERBS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "wanted"),
    [("--json paint b d", True), ("paint b d --json", True), ("paint b --json false d", False), ("paint b d", False)],
)
def test_json_may_stand_anywhere(line: str, wanted: bool) -> None:
    call = parse_call(line.split(), VERBS)
    assert call.json is wanted and call.arguments == {"bundle": "b", "output_dir": "d"}


def test_help_of_a_verb_is_made_of_its_docstring() -> None:
    text = help_of(VERBS["paint"])
    usage, *lines = text.splitlines()
    assert usage == (
        "python -m common paint BUNDLE --output_dir DIR [--n N] [--scale] [--strict] [--ids A,B] [--KEY VALUE ...]"
    )
    assert "  BUNDLE            folder" in lines
    assert "  --output_dir DIR  created, if need be" in lines
    assert "  --n N             how often (default: 3)" in lines
    assert "  --strict          refuse" in lines
    assert lines[-1] == "  python -m common paint b --output_dir d"
    assert max(map(len, lines)) <= 120
    for line in ("paint --help", "paint -h", "--help paint", "paint -- --help"):
        assert parse_call(line.split(), VERBS) == Call(help=text)


def test_lists_of_verbs() -> None:
    for line in ("", "--help", "-h"):
        assert parse_call(line.split(), VERBS).help == help_of_all(VERBS)
    assert "  paint      Paint a bundle." in help_of_all(VERBS).splitlines()
    assert "  do         Do things." in help_of_all(VERBS).splitlines()
    assert "  plain      Do a plain thing." in parse_call(["do", "--help"], VERBS).help.splitlines()
    lines = parse_call(["do", "plain", "--help"], VERBS).help.splitlines()
    assert "  --name NAME  of it" in lines and "  --seed N     that is 100 % its own (default: 0)" in lines


ALL = [verb for entry in PROGRAM.values() for verb in (entry.verbs.values() if isinstance(entry, Group) else [entry])]
NAMED = [verb for verb in ALL if isinstance(verb.function, str)]


@pytest.mark.parametrize("verb", NAMED, ids=[verb.name for verb in NAMED])
def test_a_function_is_read_without_its_module(verb: Verb) -> None:
    there = inspect.signature(resolve_name(verb.function)).parameters
    assert verb.parameters.keys() == there.keys() - {"overrides"} and verb.takes_overrides == ("overrides" in there)
    for name, parameter in verb.parameters.items():
        assert (parameter.default, parameter.annotation) == (there[name].default, there[name].annotation)


def test_a_function_is_called_with_its_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.apps.run.recipe.run_recipe", lambda **given: given)
    run = Verb("common.apps.run.recipe:run_recipe", "run")
    call = parse_call(["run", "b", "--seed", "3", "--x", "4"], {"run": run})
    assert run.call(call.arguments) == {"bundle": "b", "seed": 3, "overrides": {"x": "4"}}


def test_sentences() -> None:
    assert sentence(BadInput("a.nii", "is bad")) == "a.nii: is bad."
    assert sentence(FileNotFoundError(2, "No such file", "x")) == "[Errno 2] No such file: 'x'"
    with pytest.raises(UsageError) as ours:
        parse_call(["pait"], VERBS)
    assert sentence(ours.value).startswith("'pait' is no verb")
    assert sentence(KeyError("x")) == "KeyError: 'x'; --debug shows where"
    assert sentence(MemoryError()) == "MemoryError; --debug shows where"
    outer = RuntimeError("Failed to evaluate ConfigExpression: \n 'x'")
    outer.__cause__ = BadInput("a.nii", "is bad")
    assert sentence(outer) == "a.nii: is bad."
    outermost = RuntimeError("applying transform <Compose>")
    outermost.__cause__ = outer
    assert sentence(outermost) == "a.nii: is bad."
    assert sentence(ValueError("two\n  lines")) == "ValueError: two lines; --debug shows where"
