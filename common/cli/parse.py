"""From the words of a command line to a call, or to help or one sentence; the verbs are in `common.cli.main`.

fire splits the words into arguments. It is kept from guessing types (`000123` and `a,b` stay text), from running a
verb before all words are understood, and from printing its own help and errors.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import fire

from common.apps.run.bundle import CommandLineText, UsageError, hint, nearest
from common.io.bad_input import first_error

PROGRAM = "python -m common"
_WIDTH = 110
_OPTION = re.compile("--|-[A-Za-z]")  # what fire takes for an option; -3 is a number
_BY_POSITION = ("bundle", "kind", "table", "path")  # shown without their names
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_EVERYWHERE = {
    "--json": "print the result as JSON, and nothing else on stdout",
    "--debug": "show the traceback of an error",
    "--help": "show this",
}


@dataclass(frozen=True)
class Verb:
    """A verb: the function it calls, whose docstring (Google style) is its help, and its name.

    Parameters without a default may be given by position, `*names` takes all further words, `**overrides` every unknown
    `--key value`.
    In the docstring an argument's description may start with a placeholder in capitals.

    Attributes:
        function: takes what its annotations say (str, int, float, bool, or one of them or None).
        name: as typed, such as "prepare nifti".
        more_help: gives lines to add to the help, from the words that were given.
        failed: gives the sentence with which a result means exit code 1, None for a result that is fine.
    """

    function: Callable[..., Any]
    name: str
    more_help: Callable[[Sequence[str]], str] | None = None
    failed: Callable[[Any], str | None] = lambda result: None

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its parameters but `**overrides`."""
        found = inspect.signature(self.function, eval_str=True).parameters
        return {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}

    @property
    def listed(self) -> str | None:
        """The parameter that takes all further words (`*runs`), if it has one."""
        return next((name for name, p in self.parameters.items() if p.kind is p.VAR_POSITIONAL), None)

    @property
    def takes_overrides(self) -> bool:
        """Whether it has `**overrides`."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.function).parameters.values())


@dataclass(frozen=True)
class Group:
    """A verb with sub-verbs.

    Attributes:
        about: one line on what they do.
        verbs: by the word that follows the group's.
    """

    about: str
    verbs: Mapping[str, Verb]


Verbs = Mapping[str, Verb | Group]


@dataclass(frozen=True)
class Call:
    """What a command line asks for: a help text, or a verb with its arguments."""

    verb: Verb | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    json: bool = False
    help: str | None = None


def parse_call(words: Sequence[str], verbs: Verbs) -> Call:
    """Understand a command line.

    Args:
        words: what follows `python -m common`.
        verbs: verb -> what it calls.

    Returns:
        The call.

    Raises:
        UsageError: if a verb or option is unknown, an argument is missing, or a value has the wrong type.
    """
    if "--" in words and set(words[words.index("--") :]) & {"-h", "--help"}:
        words = [word for word in words if word != "--"]  # fire's own spelling, `-- --help`
    wants_help = "-h" in words or "--help" in words
    as_json, words = _take_json([word for word in words if word not in ("-h", "--help")])
    if not words:
        return Call(help=help_of_all(verbs))
    verb, words = _find(words, verbs, wants_help)
    if isinstance(verb, str):
        return Call(help=verb)
    if wants_help:
        return Call(help=help_of(verb, words))
    return Call(verb, _arguments(verb, words), as_json)


def _take_json(words: Sequence[str]) -> tuple[bool, list[str]]:
    wanted, rest = False, []
    skip = False
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if skip:
            skip = False
        elif word == "--json":
            skip = following.lower() in ("true", "false")
            wanted = following.lower() != "false"
        elif word.lower() in ("--json=true", "--json=false"):
            wanted = word.lower().endswith("true")
        else:
            rest.append(word)
    return wanted, rest


def _find(words: list[str], verbs: Verbs, wants_help: bool) -> tuple[Verb | str, list[str]]:
    """The verb that the first word or two name, or a help text; and the words after it."""
    name, *rest = words
    if name not in verbs:
        raise UsageError(f"{name!r} is no verb, expected one of {', '.join(verbs)}{hint(name, verbs)}")
    if isinstance(verbs[name], Verb):
        return verbs[name], rest
    found = verbs[name].verbs
    if not rest or rest[0].startswith("-"):
        if wants_help:
            return help_of_group(name, verbs[name]), []
        raise UsageError(f"{name} needs one of {', '.join(found)}, as in: {PROGRAM} {name} {next(iter(found))} --help")
    if rest[0] not in found:
        raise UsageError(f"{name} has no {rest[0]!r}, expected one of {', '.join(found)}{hint(rest[0], found)}")
    return found[rest[0]], rest[1:]


def _arguments(verb: Verb, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a verb's function, with the types that its annotations say."""
    parameters = verb.parameters
    texts = _split(verb, _explicit(verb, words))
    lacking = [name for name, p in parameters.items() if p.default is p.empty and name not in texts]
    unknown = [name for name in texts if name not in parameters]
    if unknown and not verb.takes_overrides:
        raise UsageError(f"{verb.name} has no option --{unknown[0]}{hint(unknown[0], parameters, '--')}")
    for name in unknown:
        if nearest(name, lacking):  # a misspelt option, not an override
            raise UsageError(f"{verb.name} has no option --{name}{hint(name, lacking, '--')}")
    if lacking:
        raise UsageError(f"{verb.name} needs {_shown(parameters[lacking[0]])}, see {PROGRAM} {verb.name} --help")
    listed = {name: [str(word) for word in texts.pop(name)] for name in [verb.listed] if name in texts}
    return listed | {
        name: _typed(name, text, parameters[name].annotation) if name in parameters else CommandLineText(text)
        for name, text in texts.items()
    }


def _explicit(verb: Verb, words: Sequence[str]) -> list[str]:
    """Write every option that stands alone as `--name=True` or `--name=False`, so that nothing is left to guess."""
    parameters = verb.parameters
    result, seen = [], set()
    for word, following in zip(words, [*words[1:], "--end"], strict=False):
        if word in ("-", "--"):  # fire would split the command there
            raise UsageError(f"{verb.name} has no use for {word!r}, see {PROGRAM} {verb.name} --help")
        if _OPTION.match(word):
            name = word.lstrip("-").split("=", 1)[0].replace("-", "_")
            if "=" not in word and _OPTION.match(following):
                negated = re.sub("^no_?", "", name)
                if name in parameters and parameters[name].annotation is not bool:
                    raise UsageError(f"--{name} needs a value")
                if name not in parameters and negated in parameters and parameters[negated].annotation is bool:
                    name, word = negated, f"--{negated}=False"
                else:
                    word = f"{word}=True"
            if name in seen:
                raise UsageError(f"--{name} is given twice")
            seen.add(name)
        result.append(word)
    return result


def _split(verb: Verb, words: list[str]) -> dict[str, Any]:
    """Let fire find which word is the value of which argument; all of them stay text."""
    required = [n for n, p in verb.parameters.items() if p.default is p.empty and n != verb.listed]
    taken: dict[str, Any] = {}

    def capture(*values: str | None, **options: str) -> None:
        taken.update({name: value for name, value in zip(required, values, strict=False) if value is not None})
        if values[len(required) :]:
            taken[verb.listed] = values[len(required) :]
        taken.update(options)

    kind = inspect.Parameter
    by_position = [kind(name, kind.POSITIONAL_OR_KEYWORD, default=None) for name in required]
    by_position += [] if verb.listed is None else [kind(verb.listed, kind.VAR_POSITIONAL)]
    capture.__signature__ = inspect.Signature([*by_position, kind("options", kind.VAR_KEYWORD)])
    fire.decorators.SetParseFn(str)(capture)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            fire.Fire(capture, command=words, name=PROGRAM)
    except fire.core.FireExit as error:
        extra = error.trace.elements[-1].ErrorAsStr().removeprefix("Could not consume arg:").strip()
        raise UsageError(f"{verb.name} has no use for {extra!r}, see {PROGRAM} {verb.name} --help") from error
    return taken


def _typed(name: str, text: str, annotation: Any) -> Any:
    kind = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"--{name} is {text!r}, expected true or false")
        return _BOOLEANS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError as error:
            expected = "a whole number" if kind is int else "a number"
            raise UsageError(f"--{name} is {text!r}, expected {expected}") from error
    if not text:
        raise UsageError(f"--{name} is empty")
    return text


# ---- help ----------------------------------------------------------------------------------------------------------


def help_of_all(verbs: Verbs) -> str:
    """The list of verbs, one line each."""
    lines = []
    for name, verb in verbs.items():
        lines.append(f"  {name:<10} {_summary(verb) if isinstance(verb, Verb) else verb.about}")
    first = next(iter(verbs))
    end = f"{PROGRAM} VERB --help explains a verb; {PROGRAM} {first} is a good start."
    return "\n".join([f"{PROGRAM} VERB ...", "", *lines, "", end])


def help_of_group(name: str, group: Group) -> str:
    """The list of a verb's sub-verbs."""
    lines = [f"  {sub:<10} {_summary(verb)}" for sub, verb in group.verbs.items()]
    head, end = f"{PROGRAM} {name} WHAT ...", f"{PROGRAM} {name} WHAT --help explains each."
    return "\n".join([head, "", group.about, "", *lines, "", end])


def help_of(verb: Verb, words: Sequence[str] = ()) -> str:
    """The help of one verb: usage, what it does, its arguments with defaults, examples."""
    about, notes, examples = _sections(verb)
    rows, usage = [], [PROGRAM, verb.name]
    for name, parameter in verb.parameters.items():
        placeholder, note = _placeholder(notes[name])
        shown = _shown(parameter, placeholder)
        optional = parameter.default is not parameter.empty
        usage.append(f"[{shown}]" if optional else shown)
        if optional and parameter.default not in (None, False):
            note += f" (default: {parameter.default})"
        rows.append((shown, note))
    if verb.takes_overrides:
        usage.append("[--KEY VALUE ...]")
        rows.append(("--KEY VALUE", notes["overrides"]))
    rows += _EVERYWHERE.items()
    lines = [textwrap.fill(" ".join(usage), _WIDTH, subsequent_indent="    ", break_on_hyphens=False), ""]
    lines += [*(textwrap.fill(paragraph, _WIDTH) + "\n" for paragraph in about), "Arguments:"]
    width = max(len(shown) for shown, _ in rows) + 4
    for shown, note in rows:
        lines.append(
            textwrap.fill(note, _WIDTH, initial_indent=f"  {shown:<{width - 2}}", subsequent_indent=" " * width)
        )
    more = verb.more_help(words) if verb.more_help else ""
    lines += ["", more] if more else []
    return "\n".join([*lines, "", "Examples:", *(f"  {line}" for line in examples)])


def _sections(verb: Verb) -> tuple[list[str], dict[str, str], list[str]]:
    """Paragraphs, notes on the arguments, and lines of examples of a Google docstring."""
    doc = inspect.getdoc(verb.function) or ""
    text, _, examples = doc.partition("\nExamples:\n")
    text, _, arguments = text.partition("\nArgs:\n")
    notes: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\w)", "\n" + arguments)[1:]:
        name, _, note = entry.partition(":")
        notes[name.strip()] = " ".join(note.split())
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return paragraphs, notes, [line.strip() for line in examples.splitlines() if line.strip()]


def _summary(verb: Verb) -> str:
    return _sections(verb)[0][0]


def _placeholder(note: str) -> tuple[str, str]:
    match = re.match(r"([A-Z][A-Z,]*)\s+(.*)", note)
    return (match[1], match[2]) if match else ("", note)


def _shown(parameter: inspect.Parameter, placeholder: str = "") -> str:
    """How an argument is written: BUNDLE by position, --name VALUE otherwise."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"{placeholder or parameter.name.upper()} ..."
    if parameter.name in _BY_POSITION and parameter.default is parameter.empty:
        return placeholder or parameter.name.upper()
    return f"--{parameter.name} {placeholder}".rstrip()


# ---- errors --------------------------------------------------------------------------------------------------------


def sentence(error: BaseException) -> str:
    """One line that says what went wrong."""
    from common.io.remote_folder import shown

    error = first_error(error)
    text = shown(" ".join(str(error).split()))
    if isinstance(error, OSError) or _is_ours(error):
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''}; --debug shows where"


def _is_ours(error: BaseException) -> bool:
    """Whether this library raised it itself, as a sentence; an IndexError for instance is a fault, wherever it is."""
    if type(error).__module__.startswith("common."):
        return True
    if not isinstance(error, (ValueError, NotImplementedError)):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("common.")
