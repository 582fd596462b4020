"""From the words of a command line to a call, or to help or one sentence; the verbs are in `common.cli.main`.

argparse reads the words by the signature of the function that the verb calls, whose docstring is the help.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from common.apps.run.bundle import CommandLineText, UsageError, hint, nearest

PROGRAM = "python -m common"
_WIDTH = 110
_OPTION = re.compile("^(?:--|-(?=[A-Za-z]))([^=]+)")  # -3 is a number
_BY_POSITION = ("bundle", "kind", "table", "path", "runs")  # shown without their names
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_TYPES = {
    "bool": (lambda text: _BOOLEANS[text.lower()], "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
}
_EVERYWHERE = {
    "--json": "print the result as JSON, and nothing else on stdout",
    "--debug": "show the traceback of an error",
    "--help": "show this",
}
_TRUST = inspect.Parameter("trust", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")
_TRUST_NOTE = "run what the bundle says without looking at it first, as check does; for a bundle whose makers you trust"


@dataclass(frozen=True)
class Verb:
    """A verb: the function it calls, whose signature and docstring (Google style) are its options and its help.

    Parameters without a default may be given by position, one of them that is a Sequence takes all words that are left;
    `overrides` gets every unknown `--key value`. In the docstring an argument's description may start with a
    placeholder in capitals.

    Attributes:
        function: takes what its annotations say: bool, int or float, else text. One that is costly to import is named,
            as "module:function", and imported when it is called.
        name: as typed, such as "prepare nifti".
        more_help: gives lines to add to the help, from the words that were given.
        failed: gives the sentence with which a result means exit code 1, None for a result that is fine.
        show: prints a result.
        resumes: whether the same command, after an interruption, goes on where it stopped.
        judged: configuration files of its bundle that it runs, `("*",)` for all; they are checked before.
    """

    function: Callable[..., Any] | str
    name: str
    more_help: Callable[[Sequence[str]], str] = lambda words: ""
    failed: Callable[[Any], str | None] = lambda result: None
    show: Callable[[Any], None] = lambda result: None
    resumes: bool = False
    judged: tuple[str, ...] = ()

    @cached_property
    def _described(self) -> tuple[Mapping[str, inspect.Parameter], str]:
        if callable(self.function):
            return inspect.signature(self.function).parameters, inspect.getdoc(self.function)
        module, name = self.function.split(":")
        source = Path(find_spec(module).origin).read_text(encoding="utf-8")
        head = re.search(rf'^def {name}\(.*?\n    """.*?"""\n', source, re.DOTALL | re.MULTILINE)[0]
        node = ast.parse(head).body[0]
        words, defaults = node.args.args + node.args.kwonlyargs, node.args.defaults + node.args.kw_defaults
        values = [inspect.Parameter.empty] * (len(words) - len(defaults)) + [*map(ast.literal_eval, defaults)]
        kind = inspect.Parameter.KEYWORD_ONLY
        return {
            word.arg: inspect.Parameter(word.arg, kind, default=value, annotation=ast.unparse(word.annotation))
            for word, value in zip(words, values, strict=True)
        }, ast.get_docstring(node)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its parameters but `overrides`."""
        return {name: p for name, p in self._described[0].items() if name != "overrides"}

    @property
    def takes_overrides(self) -> bool:
        """Whether it takes `--key value` of a configuration."""
        return "overrides" in self._described[0]

    @property
    def about(self) -> str:
        """One line on what it does."""
        return self._described[1].splitlines()[0]

    def sections(self) -> tuple[list[str], dict[str, str], str]:
        """Paragraphs, notes on the arguments, and the examples of its docstring."""
        text, *parts = re.split(r"\n(Args|Returns|Raises|Examples):\n", self._described[1])
        parts = dict(zip(parts[::2], parts[1::2], strict=True))
        entries = (entry.partition(":") for entry in re.split(r"\n(?= {4}\w)", "\n" + parts["Args"])[1:])
        notes = {name.strip(): " ".join(note.split()) for name, _, note in entries}
        paragraphs = [textwrap.fill(" ".join(part.split()), _WIDTH) for part in text.split("\n\n")]
        return paragraphs, notes, textwrap.dedent(parts.get("Examples", "")).strip()

    def call(self, values: Mapping[str, Any]) -> Any:
        """Call the function with arguments and overrides, which are all values that are no parameter."""
        arguments = {key: value for key, value in values.items() if key in self.parameters}
        overrides = {key: value for key, value in values.items() if key not in self.parameters}
        if callable(self.function):
            return self.function(**arguments, **overrides)
        return resolve_name(self.function)(**arguments, **{"overrides": overrides} if self.takes_overrides else {})


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
    """What a command line asks for: a help text, or a verb with its arguments; `trust` is for its bundle."""

    verb: Verb | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    json: bool = False
    trust: bool = False
    help: str | None = None


class _Help(argparse.RawDescriptionHelpFormatter):
    """A row per argument, which begins with its metavar."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return str(action.metavar)


class _Parser(argparse.ArgumentParser):
    """argparse with our sentences, for which only a minus before a letter or another minus begins an option."""

    def __init__(self) -> None:
        rows = partial(_Help, max_help_position=40, width=_WIDTH)
        super().__init__(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS, formatter_class=rows)
        self.rows = self.add_argument_group("Arguments")
        self._negative_number_matcher = re.compile("-[^A-Za-z-]")  # argparse's own knows -3, but not -1e-4 and -1,2

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace("expected one argument", "needs a value")
        raise UsageError(message.replace(": ", " ", 1))


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
    wants_help = not {"-h", "--help"}.isdisjoint(words)
    words = [word for word in words if word not in ("-h", "--help")]
    pairs = zip(words, [*words[1:], ""], strict=False)
    words = [f"{word}=true" if word == "--json" and after.lower() not in _BOOLEANS else word for word, after in pairs]
    anywhere = _Parser()
    anywhere.add_argument("--json", type=partial(_read, "bool"), default=False)
    known, words = anywhere.parse_known_args(words)
    if not words:
        return Call(help=help_of_all(verbs))
    name, *rest = words
    if name not in verbs:
        raise UsageError(f"{name!r} is no verb, expected one of {', '.join(verbs)}{hint(name, verbs)}")
    verb = verbs[name]
    if isinstance(verb, Group):
        subs = verb.verbs
        if wants_help and (not rest or rest[0].startswith("-")):
            return Call(help=help_of_all(subs, f" {name}", verb.about))
        if not rest or rest[0].startswith("-"):
            raise UsageError(
                f"{name} needs one of {', '.join(subs)}, as in: {PROGRAM} {name} {next(iter(subs))} --help"
            )
        if rest[0] not in subs:
            raise UsageError(f"{name} has no {rest[0]!r}, expected one of {', '.join(subs)}{hint(rest[0], subs)}")
        verb, rest = subs[rest[0]], rest[1:]
    if wants_help:
        return Call(help=help_of(verb, rest))
    arguments = _arguments(verb, rest)
    return Call(verb, arguments, known.json, bool(verb.judged) and arguments.pop("trust", False))


def _options(verb: Verb) -> dict[str, inspect.Parameter]:
    return verb.parameters | ({"trust": _TRUST} if verb.judged else {})


def _arguments(verb: Verb, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a verb's function, with the types that its annotations say."""
    parameters, see = _options(verb), f"see {PROGRAM} {verb.name} --help"
    booleans = [name for name, p in parameters.items() if _type(p) == "bool"]
    negated = {f"--{no}{name}": f"--{name}=false" for name in booleans for no in ("no", "no_")}
    words = [_OPTION.sub(lambda option: "--" + option[1].replace("-", "_"), word) for word in words]
    words = [negated.get(word, word) for word in words]
    named = [option[1] for option in map(_OPTION.match, words) if option]
    parser = _parser(verb, named)
    for name in named:
        if named.count(name) > 1:
            raise UsageError(f"--{name} is given twice")
        if name not in parameters and not verb.takes_overrides:
            raise UsageError(f"{verb.name} has no option --{name}{hint(name, parameters, '--')}")
        if name not in parameters:
            parser.add_argument(f"--{name}", nargs="?", const="True", type=CommandLineText, dest=name)
    known, extra = parser.parse_known_intermixed_args(words)
    if extra or "--" in words:
        raise UsageError(f"{verb.name} has no use for {'--' if '--' in words else extra[0]!r}, {see}")
    values = {name: value for name, value in vars(known).items() if value not in (None, [])}
    lacking = [name for name, p in parameters.items() if p.default is p.empty and name not in values]
    for name in named:
        if name not in parameters and nearest(name, lacking):  # a misspelt option, not an override
            raise UsageError(f"{verb.name} has no option --{name}{hint(name, lacking, '--')}")
    if lacking:
        raise UsageError(f"{verb.name} needs {_shown(parameters[lacking[0]])}, {see}")
    return values


def _parser(verb: Verb, named: Collection[str]) -> _Parser:
    """The parser of a verb, with its help; an argument without a default goes by position, unless it is named."""
    paragraphs, notes, _ = verb.sections()
    parser, usage = _Parser(), f"{PROGRAM} {verb.name}"
    notes = notes | {"trust": _TRUST_NOTE}
    for name, p in _options(verb).items():
        placeholder, note = re.fullmatch(r"([A-Z][A-Z,]*(?: \.\.\.)?(?= ))?(.*)", notes[name]).groups("")
        required, shown = p.default is p.empty, _shown(p, placeholder)
        usage += f" {shown}" if required else f" [{shown}]"
        if not required and p.default not in (None, ()) and p.default is not False:
            note += f" (default: {p.default})"
        by_position = required and name not in named
        options = {"nargs": "?", "const": True} if by_position or _type(p) == "bool" else {}
        options = {"nargs": "*"} if required and str(p.annotation).startswith("Sequence") else options
        options |= {"type": partial(_read, _type(p)), "metavar": shown, "help": note.replace("%", "%%")}
        parser.rows.add_argument(name if by_position else f"--{name}", **options)
    usage += " [--KEY VALUE ...]" if verb.takes_overrides else ""
    usage = textwrap.fill(usage, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    parser.description = "\n\n".join([usage, *paragraphs])
    return parser


def _type(parameter: inspect.Parameter) -> str:
    parts = getattr(parameter.annotation, "__name__", str(parameter.annotation)).split(" | ")
    return next((part for part in parts if part in _TYPES), "text")


def _read(kind: str, text: str) -> Any:
    read, expected = _TYPES.get(kind, (str, "text"))
    with contextlib.suppress(KeyError, ValueError):
        if text:
            return read(text)
    raise argparse.ArgumentTypeError(f"is {text!r}, expected {expected}" if text else "is empty")


def _shown(parameter: inspect.Parameter, placeholder: str = "") -> str:
    """How an argument is written: BUNDLE by position, --name VALUE otherwise."""
    name = parameter.name
    if parameter.default is parameter.empty and name in _BY_POSITION:
        return placeholder or name.upper() + " ..." * str(parameter.annotation).startswith("Sequence")
    return f"--{name} {placeholder}".rstrip()


def help_of(verb: Verb, words: Sequence[str] = ()) -> str:
    """The help of one verb: usage, what it does, its arguments with defaults, examples."""
    _, notes, examples = verb.sections()
    parser = _parser(verb, verb.parameters.keys() - set(_BY_POSITION))
    overrides = {"--KEY VALUE": notes["overrides"]} if verb.takes_overrides else {}
    for shown, note in (overrides | _EVERYWHERE).items():
        parser.rows.add_argument(shown.split()[0], metavar=shown, help=note)
    more = verb.more_help(words)
    parser.epilog = f"{more}\n\n" * bool(more) + f"Examples:\n{textwrap.indent(examples, '  ')}"
    return parser.format_help().rstrip()


def help_of_all(verbs: Verbs, name: str = "", about: str = "") -> str:
    """The list of verbs, or of the sub-verbs of one, a line each."""
    rows = "\n".join(f"  {word:<10} {verb.about}" for word, verb in verbs.items())
    what = "WHAT" if name else "VERB"
    end = f"{PROGRAM}{name} {what} --help explains each; {PROGRAM} demo is a good start."
    return "\n\n".join(part for part in (f"{PROGRAM}{name} {what} ...", about, rows, end) if part)
