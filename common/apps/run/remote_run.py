r"""`python -m monai.bundle`, with URLs of object storage for folders, in one process or several (torchrun).

    torchrun --nnodes=2 --nproc_per_node=4 ... -m common.apps.run.remote_run run --config_file "[...]" \
        --dataset_dir gs://bucket/prepared --output_dir gs://bucket/run --ckpt_dir gs://bucket/run/models

Each machine fetches what it reads; the first process uploads what is written, see `common.io.remote_folder`.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.apps.run.bundle import literal
from common.io.remote_folder import fetch, is_url, working_copy

__all__ = ["local_words", "main"]

_WRITTEN = ("--output_dir", "--ckpt_dir")


@contextmanager
def local_words(words: Sequence[str], rank: int = 0) -> Iterator[list[str]]:
    """The words of a command line with local copies for URLs; what is written to them is uploaded at the end.

    Args:
        words: `--option value` each; `--output_dir` and `--ckpt_dir` are written to, other URLs are read.
        rank: of this process; only the first one writes.

    Raises:
        BadInput: as `fetch` and `working_copy`.
    """
    given = dict(zip(words, words[1:], strict=False))
    output = given.get("--output_dir", "").rstrip("/")
    urls = {option: value for option, value in given.items() if option.startswith("--") and is_url(value)}
    local: dict[str, Path] = {}
    with ExitStack() as stack:
        for option, value in sorted(urls.items(), key=lambda item: item[0] != "--output_dir"):
            if option == "--ckpt_dir" and value.startswith(f"{output}/") and "--output_dir" in local:
                local[option] = local["--output_dir"] / value.removeprefix(f"{output}/")
            elif option in _WRITTEN and rank == 0:
                local[option] = stack.enter_context(working_copy(value))
            elif option in _WRITTEN:
                local[option] = fetch(value, required=False)
            elif not value.startswith(("http://", "https://")):  # a service, such as one that tracks experiments
                local[option] = fetch(value)
        before = ["", *words]
        yield [
            literal(str(local[option])) if option in local else word
            for option, word in zip(before, words, strict=False)
        ]


def main(words: Sequence[str]) -> None:
    """Run `python -m monai.bundle` with these words."""
    with local_words(words, int(os.environ.get("RANK", "0"))) as local:
        sys.argv = ["monai.bundle", *local]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
