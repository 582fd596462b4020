import json
import shlex
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest

from common.apps.run.bundle import CommandLineText, UnknownKey, UsageError, open_bundle
from common.apps.search import trial as tune_trial
from common.apps.search import tune as tune_module
from common.apps.search.sampler import distribution, make_sampler
from common.apps.search.space import read_search_plan
from common.apps.search.tune import tune
from common.cli.main import main
from common.io.bad_input import BadInput
from tests.toy_search import REPORT, SEARCH, formula_command, journal, parameters, table, write_search

REPOSITORY = Path(__file__).parents[3]


def test_a_grid_walks_every_point_once_in_a_seeded_order(search: Any, tmp_path: Path, capsys: Any) -> None:
    result = search("grid", None)
    points = parameters(tmp_path / "out")
    assert len(points) == len(set(points)) == 9 and result["trials"]["complete"] == 9
    assert {rate for rate, _ in points} == {"0.01", "0.02", "0.03"}
    assert result["best"]["params"] == {"optimizer#lr": 0.03, "rates#0": 0.3}
    assert result["best"]["values"] == pytest.approx({"score": 1.003, "worst": 0.291})
    search("grid", 5, "some")
    assert parameters(tmp_path / "some") == points[:5]
    search("grid", 5, "other", seed=1)
    assert parameters(tmp_path / "other") != points[:5]
    capsys.readouterr()
    assert search("grid", 50)["trials"]["complete"] == 9
    assert "the grid has 9 points" in capsys.readouterr().out


def test_what_a_search_leaves(search: Any, tmp_path: Path) -> None:
    result = search("random", 8, overrides={"label": CommandLineText("000123"), "switch": True})
    out = tmp_path / "out"
    best = json.loads((out / "best_params.json").read_text())
    rows = table(out)
    assert best["trial"] == int(max(rows, key=lambda row: float(row["score"]))["trial"])
    assert best == result["best"]
    words = shlex.split(best["command"])
    assert words[:6] == ["python", "-m", "common", "run", str(tmp_path / "toy"), "--scale"]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert float(options["--optimizer#lr"]) == best["params"]["optimizer#lr"]
    assert (options["--label"], options["--switch"], options["--stages"]) == ("000123", "true", "first")
    front = [trial["trial"] for trial in best["pareto_front"]]
    values = {int(row["trial"]): (float(row["score"]), float(row["worst"])) for row in rows}
    undominated = {
        i for i, a in values.items() if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in values.values())
    }
    assert set(front) == undominated and front[0] == best["trial"]
    plots = {path.name for path in (out / "plots").iterdir()}
    names = ("history", "slices", "parallel_coordinates", "pareto_front", "importances")
    assert plots == {f"{name}.png" for name in names}
    page = (out / "index.html").read_text()
    assert "8 of 8 trials ended" in page and page.count("data:image/png") == 5
    spec = json.loads((out / "trials" / "0003" / "trial.json").read_text())
    assert spec["typed"] == {"label": "000123"} and spec["overrides"]["switch"] is True
    kept = {int(path.parents[1].name) for path in out.glob("trials/*/models/model.pt")}
    assert kept == undominated  # the weights of the others are gone


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_the_seed_decides_even_if_the_search_is_interrupted(search: Any, tmp_path: Path, kind: str) -> None:
    n = 13  # TPE draws at random before it has ten trials
    search(kind, n, "whole")
    assert len(set(parameters(tmp_path / "whole"))) == n
    search(kind, 5, "parts")
    search(kind, n, "parts")
    assert parameters(tmp_path / "parts") == parameters(tmp_path / "whole")
    search(kind, 3, "other", seed=1)
    assert not set(parameters(tmp_path / "other")) & set(parameters(tmp_path / "whole"))


def test_a_bayesian_search_finds_better_values_than_it_began_with(search: Any, tmp_path: Path) -> None:
    search("bayesian", 30, objective="score")
    scores = [float(row["score"]) for row in table(tmp_path / "out")]
    assert sum(scores[-10:]) > sum(scores[:10]) and max(scores) > 0.99
    assert all(0.001 <= float(rate) <= 0.1 for rate, _ in parameters(tmp_path / "out"))


def test_a_finished_search_needs_no_trial(search: Any, tmp_path: Path) -> None:
    first = search(n_trials=3)
    assert search(n_trials=3) == first
    assert search(n_trials=4)["trials"]["complete"] == 4


def test_a_search_of_another_command_is_refused(search: Any, toy: Path, tmp_path: Path) -> None:
    search(n_trials=2)
    with pytest.raises(UsageError, match="search 'toy' .* was made with search random, not bayesian; expected"):
        search("bayesian", 2)
    with pytest.raises(UsageError, match="with objectives .*worst.*, not .*; expected the same command"):
        search(n_trials=2, objective="score")
    with pytest.raises(UsageError, match="with overrides {}, not {'label': 'x'}"):
        search(n_trials=2, overrides={"label": "x"})
    write_search(toy, space={"rates#0": {"values": [1, 2]}})
    with pytest.raises(UsageError, match="with space .*, not .*; expected the same command, or another --search_name"):
        search(n_trials=2)
    write_search(toy)
    with pytest.raises(UsageError, match="out holds the search .toy. of another command, expected another --output"):
        search(n_trials=2, search_name="other")
    storage = str(tmp_path / "out" / "search.log")
    assert search(n_trials=2, search_name="other", out="other", storage=storage)["search_name"] == "other"


def test_a_search_of_an_earlier_version_is_refused(search: Any, tmp_path: Path) -> None:
    storage = str(tmp_path / "old.log")
    optuna.create_study(storage=journal(storage), study_name="toy").set_user_attr("definition", {})
    with pytest.raises(UsageError, match="was begun by an earlier version, .*; expected another --search_name or"):
        search(storage=storage)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text("{}")
    with pytest.raises(UsageError, match="old holds a search that an earlier version began, expected another --output"):
        search(out="old")


@pytest.mark.parametrize(
    ("label", "reason"),
    [("crash", "ValueError: no such thing"), ("memory", "ended by SIGKILL, as the system does where memory is short")],
)
def test_a_search_whose_trials_all_fail_gives_up(search: Any, tmp_path: Path, label: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"5 trials that all failed; the last: .*{reason}"):
        search(n_trials=10, overrides={"label": label})


def test_a_failed_trial_counts_and_the_search_goes_on(search: Any, toy: Path, tmp_path: Path) -> None:
    write_search(toy, space=SEARCH["space"] | {"label": {"values": ["nan", "none", "other"]}})
    result = search("grid", 27)
    assert (result["trials"]["fail"], result["trials"]["complete"]) == (9, 18)
    errors = {row["error"] for row in table(tmp_path / "out") if row["label"] == "nan"}
    assert len(errors) == 9 and all("has the score None, expected a finite number" in error for error in errors)
    assert "has the score None" in (tmp_path / "out" / "index.html").read_text()


def test_a_metric_that_no_stage_has_is_named(search: Any, toy: Path) -> None:
    write_search(toy, objectives=[{"metric": "auroc"}])
    with pytest.raises(BadInput, match="has no stage with the metric 'auroc', expected one of score, worst"):
        search()


@pytest.mark.parametrize("objective", [None, "score"])
@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_hopeless_trials_are_pruned(
    search: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str | None, seconds: float
) -> None:
    """Whether the worker looks while the trial trains or after it, and with any number of objectives."""
    monkeypatch.setattr(tune_trial, "trial_command", lambda folder: formula_command(folder, seconds))
    write_search(toy, report=REPORT)
    result = search("grid", 9, objective=objective)
    rows = table(tmp_path / "out")
    complete: list[float] = []
    for row in rows:  # what it reports is rates#0 times the epoch
        rate = float(row["rates#0"])
        hopeless = len(complete) >= 2 and rate < statistics.median(complete)
        assert (row["state"], row["pruned_at"]) == (("pruned", "1") if hopeless else ("complete", ""))
        complete += [] if hopeless else [rate]
    assert result["trials"]["pruned"] == sum(row["state"] == "pruned" for row in rows) > 0
    attrs = [
        t.user_attrs for t in optuna.load_study(study_name="toy", storage=journal(f"{tmp_path}/out/search.log")).trials
    ]
    assert all(len(a["reported"]) == a.get("pruned_at", 4) for a in attrs)


def test_a_search_that_prunes_is_the_same_twice(search: Any, toy: Path, tmp_path: Path) -> None:
    write_search(toy, report=REPORT | {"warmup": 1})
    for out in ("one", "two"):
        search("bayesian", 14, out)
    keys = ("state", "pruned_at", "optimizer#lr", "rates#0")
    one, two = ([[row[key] for key in keys] for row in table(tmp_path / out)] for out in ("one", "two"))
    assert one == two and "2" in {row[1] for row in one}


def test_the_report_stands_for_the_first_objective_alone(search: Any, toy: Path) -> None:
    write_search(toy, report=REPORT)
    assert search("grid", 9, objective="worst")["trials"]["pruned"] == 0


def test_the_examples_of_the_help_are_commands_that_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two of them were refused: for the name of an objective, and for data that was not named."""

    def begin(*_: Any) -> None:
        raise BadInput("data", "would be prepared now")

    monkeypatch.setattr(tune_module, "provide_data", begin)
    (tmp_path / "data" / "mimic").mkdir(parents=True)
    (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    monkeypatch.chdir(tmp_path)
    examples = [line.split()[3:] for line in (tune.__doc__ or "").splitlines() if "-m common tune" in line]
    assert len(examples) == 3
    for words in examples:
        assert main(words) == 1
        assert capsys.readouterr().err == "data: would be prepared now.\n"


def test_a_real_search_trains(toy: Path, tmp_path: Path, capsys: Any) -> None:
    train = json.loads((toy / "configs" / "train.json").read_text())
    train["history"]["metrics"] |= {"score": "$1 - 100 * (@optimizer#lr - 0.03) ** 2", "worst": "$@rates[0]"}
    (toy / "configs" / "train.json").write_text(json.dumps(train))
    words = ["tune", str(toy), "--search", "grid", "--n_trials", "2", "--output_dir", str(tmp_path / "out")]
    words += ["--scale", "tiny", "--virtual#n", "5", "--storage", f"sqlite:///{tmp_path}/search.db", "--study", "mine"]
    assert main([*words, "--json", "--trust"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert "--study is now called --search_name" in said.err and result["search_name"] == "mine"
    rows = table(tmp_path / "out")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    for row in rows:
        assert float(row["score"]) == pytest.approx(1 - 100 * (float(row["optimizer#lr"]) - 0.03) ** 2)
        assert float(row["worst"]) == float(row["rates#0"])
        summary = json.loads((tmp_path / "out" / row["folder"] / "summary.json").read_text())
        assert [stage["name"] for stage in summary["stages"]] == ["first"]
        assert not (tmp_path / "out" / row["folder"] / "data" / "virtual").exists()  # prepared once, for all
    assert len(list((tmp_path / "out" / "data").glob("**/manifest.csv"))) == 2
    best = max(rows, key=lambda row: (float(row["score"]), float(row["worst"])))
    assert result["best"]["trial"] == int(best["trial"])


def test_wrong_use(search: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--search is 'bayes', expected one of grid, .*; the nearest is bayesian"):
        search("bayes")
    with pytest.raises(UsageError, match="--objective is 'scor', expected one of score, worst; the nearest is score"):
        search(objective="scor")
    with pytest.raises(UnknownKey, match="--optimizer#lrr is neither .*; the nearest is --optimizer#lr"):
        search(overrides={"optimizer#lrr": 1})
    with pytest.raises(UsageError, match="--optimizer#lr is searched, expected ids that"):
        search(overrides={"optimizer::lr": 1})
    with pytest.raises(UsageError, match="--stages has 'frist'.*; the nearest is first"):
        search(stages="frist")
    with pytest.raises(UsageError, match="--n_trials is 0, expected more than 0"):
        search(n_trials=0)
    with pytest.raises(UsageError, match="--trial_hours is -1"):
        search(trial_hours=-1)
    with pytest.raises(UsageError, match="expected --dataset_dir"):
        search(dataset_dir=None)
    with pytest.raises(UsageError, match="--storage is 'search.sqlite', expected a SQLAlchemy URL such as"):
        search(storage="search.sqlite")
    with pytest.raises(UsageError, match="expected a file, which a second call can go on with"):
        search(storage="sqlite:///:memory:")
    with pytest.raises(UsageError, match="--storage is 'nodb://.*', expected a SQLAlchemy URL"):
        search(storage="nodb://host/name")
    with pytest.raises(UsageError, match=r"--storage is 'mysql://\.\.\.@host/name', whose database driver is not"):
        search(storage="mysql://me:secret@host/name")
    (tmp_path / "text.db").write_text("no database at all, but long enough to be taken for the head of one" * 20)
    with pytest.raises(ConnectionError, match=r"the storage sqlite:///.* cannot be opened \(.*file is not a database"):
        search(storage=f"sqlite:///{tmp_path}/text.db")
    (toy / "configs" / "search.json").unlink()
    with pytest.raises(BadInput, match=r"search\.json: does not exist"):
        search()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": {}}, "has an empty space"),
        ({"spaces": {}}, "has 'spaces', expected space, objectives, stages, shared and report"),
        ({"objectives": []}, "has the objectives \\[\\]"),
        ({"objectives": [{"metric": "score", "direction": "up"}]}, "has the direction 'up', expected maximize or"),
        ({"objectives": [{"metrics": "score"}]}, "is not a search .*metrics"),
        ({"space": {"label": {"low": 1}}}, "gives label .* expected values, or low and high"),
        (
            {"space": {"label": {"low": 0, "high": 1, "log": True}}},
            "range 0 to 1, expected low below high, and above 0",
        ),
        ({"space": {"label": {"low": 2, "high": 1}}}, "range 2 to 1, expected low below high"),
        ({"space": {"label": {"values": [[1], [2]]}}}, "expected at least one, and different numbers"),
        ({"space": {"label": {"values": ["a", "a"]}}}, "expected at least one, and different numbers"),
        ({"space": {"label": {"low": 1, "high": 3, "log": True, "step": 1}}}, "gives label the step 1"),
        ({"report": {"metric": "score", "pruner": "none"}}, "is not a search .*pruner"),
    ],
)
def test_a_bad_search_file_is_named(toy: Path, change: dict[str, Any], reason: str) -> None:
    write_search(toy, **change)
    with pytest.raises(BadInput, match=rf"search\.json: .*{reason}"):
        read_search_plan(open_bundle(toy))


def test_the_grid_of_nine_ids_with_three_values_has_19683_different_points(toy: Path) -> None:
    write_search(toy, space={f"id_{i}": {"values": [0.1, 0.2, "x"]} for i in range(9)})
    plan = read_search_plan(open_bundle(toy))
    assert plan.grid_size() == 19683
    study = optuna.create_study(sampler=make_sampler("grid", plan, 0))
    distributions = {name: distribution(dimension, "grid") for name, dimension in plan.space.items()}
    points = [tuple(study.ask(distributions).params.values()) for _ in range(50)]
    assert len(set(points)) == 50 and set().union(*points) == {0.1, 0.2, "x"}


def test_ids_and_stages_of_the_search_file_must_exist(search: Any, toy: Path) -> None:
    write_search(toy, space={"optimiser#lr": {"values": [1]}})
    with pytest.raises(BadInput, match="names the id 'optimiser#lr', expected one of stage first"):
        search()
    write_search(toy, objectives=[{"metric": "score", "stage": "second"}])
    with pytest.raises(BadInput, match="names the stage 'second', expected one that is run: first"):
        search()
    write_search(toy, space={"rates#0": {"low": 0.1, "high": 0.2}})
    with pytest.raises(UsageError, match="--search is 'grid', but rates#0 in search.json has no values, only a range"):
        search("grid")


def test_help_shows_the_space(toy: Path, capsys: Any) -> None:
    assert main(["tune", str(toy), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Space of toy (9 grid points):" in shown
    assert "0.01, 0.02, 0.03; 0.001 to 0.1 on a logarithmic scale" in shown and "maximize worst" in shown
