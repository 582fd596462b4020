"""The command line `python -m common`: which verbs there are (see `common.cli.verbs`), and running one of them."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from common.apps.run.bundle import UnknownKey, UsageError
from common.cli import prepare, search, verbs
from common.cli.parse import Call, Group, Verb, parse_call
from common.data.layouts import LAYOUTS
from common.io.bad_input import first_error

VERBS: dict[str, Verb | Group] = {
    "demo": Verb(verbs.demo, "demo", judged=("*",), resumes=True),
    "prepare": Group(
        "Validate CTs or X-rays and split them by patient, or write virtual patients in the layout of real data.",
        {
            "virtual": Verb(prepare.prepare_virtual, "prepare virtual", resumes=True),
            **{name: prepare.layout_verb(name) for name in LAYOUTS},
            "reports": Verb(
                "common.apps.text.prepare_reports:prepare_reports",
                "prepare reports",
                show=lambda result: print(
                    ", ".join(f"{n} {name}" for name, n in result["counts"].items()), *result["reports"], sep="\n"
                ),
            ),
        },
    ),
    "run": Verb(
        "common.apps.run.recipe:run_recipe",
        "run",
        verbs.scales_and_stages,
        show=lambda result: print(
            f"{len(result['ran'])} stages run, {len(result['skipped'])} skipped, see {result['page']}"
        ),
        judged=("*",),
        resumes=True,
    ),
    "tune": Verb(
        "common.apps.search.tune:tune",
        "tune",
        search.search_of,
        show=search.show_search,
        judged=("*",),
        resumes=True,
    ),
    "predict": Verb(verbs.predict, "predict", verbs.inference_keys, judged=("inference",)),
    "evaluate": Verb(verbs.evaluate, "evaluate", verbs.evaluation_keys, judged=("inference", "evaluate")),
    "sections": Verb(
        "common.apps.text.sections:write_sections",
        "sections",
        show=verbs.show_sections,
    ),
    "label": Verb("common.apps.text.label:label_table", "label", show=verbs.show_labels),
    "score": Group(
        "Score reports or labels against real ones, with bootstrap intervals.",
        {
            "report": Verb("common.apps.text.score:score_reports", "score report", show=verbs.show_json),
            "labels": Verb("common.apps.text.score_labels:score_labels", "score labels", show=verbs.show_json),
        },
    ),
    "plan": Verb("common.apps.run.plan:plan_bundle", "plan", show=verbs.show_plan, judged=("*",)),
    "report": Verb(
        "common.apps.report:compare_runs",
        "report",
        show=lambda result: print(result["page"], result["table"], sep="\n"),
    ),
    "job": Verb(
        "common.apps.run.cluster_jobs:render_job",
        "job",
        show=lambda result: print(result["file"] or result["job"].rstrip("\n")),
    ),
    "pack": Verb(
        "common.apps.packaging.pack:pack_bundle",
        "pack",
        show=lambda result: print(
            f"{result['folder']} ({result['files']} files)\n{result['zip']} (sha256 {result['sha256']})"
        ),
        judged=("train", "inference"),
    ),
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
    with contextlib.suppress(AttributeError):  # a path that is no UTF-8 is printed as the bytes it is
        sys.stdout.reconfigure(errors="surrogateescape")
    debug = "--debug" in words
    call = Call()
    logging.setLogRecordFactory(_record)
    try:
        call = parse_call([word for word in words if word != "--debug"], VERBS)
        if call.help is not None:
            print(call.help)
            return 0
        return _execute(call)
    except KeyboardInterrupt:
        print(f"interrupted; {_after_interruption(call)}", file=sys.stderr)
        return 1
    except Exception as error:  # the one place where every error becomes its sentence
        if debug:
            raise
        print(sentence(error), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _after_interruption(call: Call) -> str:
    if call.verb is not None and call.verb.resumes:
        return "the same command goes on where it stopped"
    return "what it has written stays, and the same command does all of it again"


def _record(*args: Any, **options: Any) -> logging.LogRecord:
    """A log record; that an engine ends with an error is said once, by the sentence, and not by the engine before it.

    Its own line names the object that failed by its address. It stays in files that log everything.
    """
    record = logging.LogRecord(*args, **options)
    if record.levelno == logging.ERROR and record.name.startswith("ignite.engine"):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record


def _execute(call: Call) -> int:
    with contextlib.redirect_stdout(sys.stderr) if call.json else contextlib.nullcontext():
        if call.verb.judged and not call.trust:
            from common.apps.packaging.check import refuse_unsafe

            refuse_unsafe(call.arguments.get("bundle", call.verb.parameters["bundle"].default), call.verb.judged)
        try:
            result = call.verb.call(call.arguments)
        except UnknownKey as error:  # the nearest may be an option of the verb
            raise UnknownKey(error.key, [*call.verb.parameters, *error.known], error.where) from error
        call.verb.show(result)
    if call.json:
        from common.visualize.tables import json_text

        print(json_text(json.loads(json.dumps(result, default=str)), indent=1), end="")
    problem = call.verb.failed(result)
    if problem is not None:
        print(problem, file=sys.stderr)
    return 0 if problem is None else 1


def sentence(error: BaseException) -> str:
    """One line that says what went wrong."""
    from common.io.remote_folder import to_url

    error = first_error(error)
    text = to_url(" ".join(str(error).split()))
    if isinstance(error, OSError) or _is_ours(error):
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''}; --debug shows where"


def _is_ours(error: BaseException) -> bool:
    """Whether this library raised it itself, as a sentence; an IndexError for instance is a fault, wherever it is."""
    if type(error).__module__.startswith("common."):
        return True
    if not isinstance(error, (ValueError, NotImplementedError)):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("common.")
