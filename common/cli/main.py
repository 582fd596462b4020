"""The command line `python -m common`: which verbs there are (see `common.cli.verbs`), and running one of them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from common.apps.run.bundle import UnknownKey, UsageError
from common.cli import prepare, text, verbs
from common.cli import search as train
from common.cli.parse import Call, Group, Verb, parse_call, sentence
from common.data.layouts import LAYOUTS

VERBS: dict[str, Verb | Group] = {
    "demo": Verb(verbs.demo, "demo"),
    "prepare": Group(
        "Validate CTs or X-rays and split them by patient, or write virtual patients in the layout of real data.",
        {
            "virtual": Verb(prepare.prepare_virtual, "prepare virtual"),
            **{name: prepare.layout_verb(name) for name in LAYOUTS},
            "reports": Verb(text.prepare_reports, "prepare reports"),
        },
    ),
    "run": Verb(verbs.run, "run", verbs.scales_and_stages),
    "tune": Verb(train.tune, "tune", train.search_of),
    "predict": Verb(verbs.predict, "predict", verbs.inference_keys),
    "evaluate": Verb(verbs.evaluate, "evaluate", verbs.inference_keys),
    "sections": Verb(text.sections, "sections"),
    "label": Verb(text.label, "label"),
    "score": Group(
        "Score reports or labels against real ones, with bootstrap intervals.",
        {"report": Verb(text.score_report, "score report"), "labels": Verb(text.score_labels, "score labels")},
    ),
    "plan": Verb(verbs.plan, "plan"),
    "report": Verb(verbs.report, "report"),
    "job": Verb(verbs.job, "job"),
    "pack": Verb(verbs.pack, "pack"),
    "check": Verb(verbs.check, "check", verbs.allowed_modules, verbs.check_failed),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `python -m common`; default those of this process.

    Returns:
        The exit code: 0 done, 1 a reason on stderr, 2 wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        call = parse_call([word for word in words if word != "--debug"], VERBS)
        if call.help is not None:
            print(call.help)
            return 0
        return _execute(call)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 1
    except Exception as error:  # the one place where every error becomes its sentence
        if debug:
            raise
        print(sentence(error), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _execute(call: Call) -> int:
    parameters = call.verb.parameters
    overrides = {key: value for key, value in call.arguments.items() if key not in parameters}
    arguments = {key: value for key, value in call.arguments.items() if key in parameters}
    with contextlib.redirect_stdout(sys.stderr) if call.json else contextlib.nullcontext():
        try:
            result = call.verb.function(*arguments.pop(call.verb.listed, ()), **arguments, **overrides)
        except UnknownKey as error:  # the nearest may be an option of the verb
            raise UnknownKey(error.key, [*parameters, *error.known], error.where) from error
    if call.json:
        from common.visualize.tables import json_text

        print(json_text(json.loads(json.dumps(result, default=str)), indent=1), end="")
    problem = call.verb.failed(result)
    if problem is not None:
        print(problem, file=sys.stderr)
    return 0 if problem is None else 1
