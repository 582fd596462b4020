"""What the verbs of `python -m common` do that search a training; see `common.cli.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.apps.run.bundle import open_bundle

Result = dict[str, Any]


def show_search(result: Result) -> None:
    """Print the best trial and where the others are."""
    from common.visualize.tables import cell_text

    best = result["best"]
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items() if count)
    print(f"{counts} trials; the best is trial {best['trial']}:")
    for name, value in (best["values"] | best["params"]).items():
        print(f"  {name:<24} {cell_text(value)}")
    print(f"{result['best_params']}, see {result['page']}")


def search_of(words: Sequence[str]) -> str:
    """What `tune BUNDLE --help` adds: the space and objectives of that bundle."""
    if not words or words[0].startswith("-"):
        return ""
    from common.apps.search.space import read_search_plan

    found = open_bundle(words[0])
    if not (found.configs / "search.json").is_file():
        return f"{found.name} has no configs/search.json."
    plan = read_search_plan(found)
    lines = [f"Space of {found.name} ({plan.grid_size() or 'no'} grid points):"]
    for name, dimension in plan.space.items():
        kind = " on a logarithmic scale" if dimension.log else ""
        between = [] if dimension.low is None else [f"{dimension.low} to {dimension.high}{kind}"]
        choices = [] if dimension.values is None else [", ".join(map(str, dimension.values))]
        lines.append(f"  {name:<24} {'; '.join([*choices, *between])}")
    lines += ["Objectives:", *(f"  {o.direction} {o.metric}" for o in plan.objectives)]
    return "\n".join(lines)
