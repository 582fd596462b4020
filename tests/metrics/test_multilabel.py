import json

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from common.metrics.multilabel import (
    choose_thresholds,
    multilabel_comparison,
    multilabel_scores,
)
from common.metrics.resampling import resampled_cases

NAMES = ("Edema", "Fracture", "Lung Lesion", "Pneumonia")


def problem(seed=0, n=150, ties=False):
    """Probabilities that say something about labels of which a quarter is missing."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 4)) < (0.5, 0.15, 0.3, 0.8)
    probabilities = np.clip(0.35 * truth + 0.6 * rng.random((n, 4)), 0, 1)
    labels = np.where(rng.random((n, 4)) < 0.25, np.nan, truth)
    return (probabilities.round(1) if ties else probabilities), labels


def ece(label, score, bins, strategy):
    """Expected calibration error from scikit-learn's calibration curve, whose bins are counted here."""
    parts = np.linspace(0, 1, bins + 1)
    edges = np.percentile(score, parts * 100) if strategy == "quantile" else parts
    sizes = np.bincount(np.searchsorted(edges[1:-1], score), minlength=bins)
    frequency, mean = calibration_curve(label, score, n_bins=bins, strategy=strategy)
    return float((sizes[sizes > 0] / len(score)) @ np.abs(frequency - mean))


ORACLES = {
    "auroc": sk.roc_auc_score,
    "auprc": sk.average_precision_score,
    "brier": sk.brier_score_loss,
    "ece": lambda y, p: ece(y, p, 15, "uniform"),
    "ece_equal_mass": lambda y, p: ece(y, p, 15, "quantile"),
    "f1@0.5": lambda y, p: sk.f1_score(y, p >= 0.5),
    "precision@0.5": lambda y, p: sk.precision_score(y, p >= 0.5),
    "recall@0.5": lambda y, p: sk.recall_score(y, p >= 0.5),
    "specificity@0.5": lambda y, p: sk.recall_score(y, p >= 0.5, pos_label=0),
    "accuracy@0.5": lambda y, p: sk.accuracy_score(y, p >= 0.5),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ORACLES)
def test_every_metric_is_scikit_learns_on_the_labelled_cells(metric, ties):
    for seed in range(5):
        probabilities, labels = problem(seed, ties=ties)
        scores = multilabel_scores(probabilities, labels, NAMES, draws=0).scores[metric]
        expected = []
        for c, name in enumerate(NAMES):
            kept = ~np.isnan(labels[:, c])
            expected.append(ORACLES[metric](labels[kept, c], probabilities[kept, c]))
            assert scores.per_class[name].value == pytest.approx(expected[-1], abs=1e-9)
        assert scores.macro.value == pytest.approx(np.mean(expected), abs=1e-9)
        kept = ~np.isnan(labels)
        assert scores.micro.value == pytest.approx(ORACLES[metric](labels[kept], probabilities[kept]), abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ["auroc", "auprc", "brier", "ece", "f1@0.5", "specificity@0.5"])
def test_intervals_are_those_of_a_loop_over_scikit_learn(metric, ties):
    probabilities, labels = problem(1, ties=ties)
    groups = np.arange(150) // 2
    scores = multilabel_scores(probabilities, labels, NAMES, draws=25, seed=3, groups=groups).scores[metric]
    micro, macro, first = [], [], []
    for cases in resampled_cases(150, 25, 3, groups):
        p, y = probabilities[cases], labels[cases]
        per_class = [ORACLES[metric](y[k, c], p[k, c]) for c in range(4) for k in [~np.isnan(y[:, c])]]
        macro.append(np.mean(per_class))
        first.append(per_class[0])
        micro.append(ORACLES[metric](y[~np.isnan(y)], p[~np.isnan(y)]))
    for ours, drawn in ((scores.micro, micro), (scores.macro, macro), (scores.per_class["Edema"], first)):
        assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
        assert ours.undefined == 0


def test_one_class_columns_are_named_and_left_out_of_the_mean():
    probabilities, labels = problem()
    labels[:, 1] = np.where(np.isnan(labels[:, 1]), np.nan, 0)
    labels[:, 2] = np.nan
    labels[:, 3] = 1
    result = multilabel_scores(probabilities, labels, NAMES, draws=20)
    auroc = result.scores["auroc"]
    assert set(auroc.undefined) == set(NAMES[1:])
    assert "negative" in auroc.undefined["Fracture"] and "no case" in auroc.undefined["Lung Lesion"]
    assert "positive" in auroc.undefined["Pneumonia"]
    assert auroc.macro.value == auroc.per_class["Edema"].value
    assert np.isnan(auroc.per_class["Fracture"].value)
    assert set(result.scores["f1@0.5"].undefined) == {"Fracture", "Lung Lesion"}
    assert set(result.scores["specificity@0.5"].undefined) == {"Lung Lesion", "Pneumonia"}
    assert set(result.scores["brier"].undefined) == {"Lung Lesion"}
    assert result.support["Lung Lesion"] == {"positive": 0, "negative": 0, "masked": 150}
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["metrics"]["auroc"]["per_class"]["Fracture"]["value"] is None
    assert written["metrics"]["auroc"]["per_class"]["Fracture"]["reason"]
    assert written["metrics"]["auroc"]["macro"]["classes"] == 1
    assert "auroc_Fracture" not in result.summary() and result.summary()["auroc_macro"] == auroc.macro.value


def test_without_any_label_there_is_no_value_but_a_result():
    result = multilabel_scores(np.full((5, 2), 0.5), np.full((5, 2), np.nan), ("a", "b"), draws=10)
    assert result.summary() == {} and result.scores["auroc"].macro.undefined == 10
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_rare_class_is_undefined_in_some_draws_which_are_counted():
    probabilities, labels = problem(n=40)
    labels[:, 1] = 0
    labels[7, 1] = 1
    scores = multilabel_scores(probabilities, labels, NAMES, draws=500).scores["auroc"]
    expected = sum(7 not in cases for cases in resampled_cases(40, 500))
    assert expected > 100
    assert scores.per_class["Fracture"].undefined == scores.macro.undefined == expected
    assert scores.micro.undefined == 0


def test_precision_without_a_predicted_positive_is_zero():
    probabilities, labels = problem()
    scores = multilabel_scores(probabilities * 0.4, labels, NAMES, draws=0).scores
    assert scores["precision@0.5"].macro.value == scores["f1@0.5"].macro.value == 0


def test_a_constant_score_ranks_nothing():
    _, labels = problem()
    scores = multilabel_scores(np.full_like(labels, 0.3), labels, NAMES, draws=50).scores
    assert scores["auroc"].macro.value == 0.5
    assert scores["auroc"].macro.low == scores["auroc"].macro.high == 0.5
    assert scores["auprc"].per_class["Edema"].value == pytest.approx(np.nanmean(labels[:, 0]))


@pytest.mark.parametrize("criterion", ["f1", "youden"])
def test_thresholds_are_the_best_of_all_on_the_cases_they_are_chosen_on(criterion):
    probabilities, labels = problem(2, ties=True)
    chosen = choose_thresholds(probabilities, labels, NAMES, criterion)
    for c, name in enumerate(NAMES):
        kept = ~np.isnan(labels[:, c])
        y, p = labels[kept, c], probabilities[kept, c]
        quality = {
            t: sk.f1_score(y, p >= t) if criterion == "f1" else sk.balanced_accuracy_score(y, p >= t)
            for t in np.unique(p)
        }
        assert quality[chosen[name]] == pytest.approx(max(quality.values()))
        assert chosen[name] == max(t for t, value in quality.items() if value > max(quality.values()) - 1e-9)


@pytest.mark.parametrize(
    ("criterion", "label", "tied"),
    # F1 2/3 of one true positive alone, and of both with two false ones; recall 1/2 and no false one, or 1 and 1/2
    [("f1", [1, 0, 0, 1, 0], (0.9, 0.4)), ("youden", [1, 0, 1, 0], (0.9, 0.6))],
)
def test_of_equally_good_thresholds_the_highest_is_chosen(criterion, label, tied):
    score = np.array([0.9, 0.8, 0.6, 0.4, 0.2])[: len(label)]
    quality = {"f1": sk.f1_score, "youden": sk.balanced_accuracy_score}[criterion]
    assert quality(label, score >= tied[0]) == pytest.approx(quality(label, score >= tied[1]))
    chosen = choose_thresholds(score[:, None], np.array(label, float)[:, None], ["Edema"], criterion)
    assert chosen == {"Edema": max(tied)}


def test_chosen_thresholds_are_applied_to_other_cases_and_a_class_without_one_is_named():
    validation, test = problem(3), problem(4)
    validation[1][:, 3] = 1
    chosen = choose_thresholds(*validation, NAMES)
    assert set(chosen) == set(NAMES[:3])
    result = multilabel_scores(*test, NAMES, thresholds=chosen, draws=10)
    for c, name in enumerate(NAMES[:3]):
        kept = ~np.isnan(test[1][:, c])
        expected = sk.f1_score(test[1][kept, c], test[0][kept, c] >= chosen[name])
        assert result.scores["f1@chosen"].per_class[name].value == pytest.approx(expected)
        tn, fp, fn, tp = sk.confusion_matrix(test[1][kept, c], test[0][kept, c] >= chosen[name]).ravel()
        assert result.confusion["chosen"][name] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert result.scores["f1@chosen"].undefined == {"Pneumonia": "no threshold was chosen for it"}
    assert result.thresholds["chosen"] == chosen


def difference_of(first, second, labels, **options):
    return multilabel_comparison({"a": first, "b": second}, labels, NAMES, "b", **options)[1]["a"]


def test_difference_of_two_systems_is_paired():
    (first, labels), (second, _) = problem(5), problem(6)
    better = np.clip(0.2 * np.nan_to_num(labels) + 0.7 * first, 0, 1)
    a = multilabel_scores(better, labels, NAMES, draws=0).scores["auroc"].macro.value
    b = multilabel_scores(first, labels, NAMES, draws=0).scores["auroc"].macro.value
    difference = difference_of(better, first, labels, draws=200).scores["auroc"]
    assert difference.macro.value == pytest.approx(a - b)
    assert difference.macro.low > 0
    unpaired = multilabel_scores(first, labels, NAMES, draws=200).scores["auroc"].macro
    assert difference.macro.high - difference.macro.low < unpaired.high - unpaired.low
    same = difference_of(second, second, labels, draws=20).scores["auprc"].macro
    assert same.value == same.low == same.high == 0


def test_result_does_not_depend_on_the_order_of_classes():
    probabilities, labels = problem()
    order = [2, 0, 3, 1]
    one = multilabel_scores(probabilities, labels, NAMES, draws=50).to_dict()["metrics"]["auroc"]
    other = multilabel_scores(probabilities[:, order], labels[:, order], [NAMES[c] for c in order], draws=50).to_dict()[
        "metrics"
    ]["auroc"]
    assert one["per_class"] == other["per_class"]
    assert one["macro"]["low"] == pytest.approx(other["macro"]["low"])


P, Y = problem()


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "options", "words"),
    [
        (P[:9], Y, NAMES, {}, "expected"),
        (P, Y, NAMES[:3], {}, "name for each class"),
        (P, Y, ("a", "a", "b", "c"), {}, "once"),
        (P, np.where(np.isnan(Y), -1, Y), NAMES, {}, "expected 0, 1 or NaN"),
        (P + 1, Y, NAMES, {}, "expected a number from 0 to 1"),
        (np.full_like(P, np.nan), Y, NAMES, {}, "expected a number from 0 to 1"),
        (P, Y, NAMES, {"thresholds": {"Oedema": 0.5}}, "Oedema"),
        (P[:0], Y[:0], NAMES, {}, "at least 1"),
        (P, Y, NAMES, {"groups": [1, 2]}, "groups"),
        (P, Y, NAMES, {"level": 2}, "level"),
    ],
)
def test_impossible_input_is_refused_in_a_sentence(probabilities, labels, names, options, words):
    with pytest.raises(ValueError, match=words):
        multilabel_scores(probabilities, labels, names, **{"draws": 5} | options)


def test_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="youden"):
        choose_thresholds(P, Y, NAMES, "accuracy")


def test_a_missing_label_hides_its_probability():
    probabilities, labels = problem()
    hidden = np.where(np.isnan(labels), np.nan, probabilities)
    assert (
        multilabel_scores(hidden, labels, NAMES, draws=5).summary()
        == multilabel_scores(probabilities, labels, NAMES, draws=5).summary()
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("thresholds", [None, {"Edema": 0.4, "Pneumonia": 0.6}])
def test_several_systems_at_once_are_those_systems_one_by_one(ties, thresholds):
    _, labels = problem()
    systems = {f"s{seed}": problem(seed, ties=ties)[0] for seed in range(3)}
    chosen = None if thresholds is None else dict.fromkeys(systems, thresholds)
    options = {"draws": 40, "seed": 5, "groups": np.arange(150) // 3}
    scores, differences = multilabel_comparison(systems, labels, NAMES, "s1", thresholds=chosen, **options)
    assert list(scores) == ["s0", "s1", "s2"] and list(differences) == ["s0", "s2"]
    for system, probabilities in systems.items():
        alone = multilabel_scores(probabilities, labels, NAMES, thresholds=thresholds, **options)
        assert scores[system].to_dict() == alone.to_dict()
    pair = None if thresholds is None else {"a": thresholds, "b": thresholds}
    paired = difference_of(systems["s2"], systems["s1"], labels, thresholds=pair, **options)
    assert differences["s2"].to_dict() == paired.to_dict()
    without = multilabel_comparison(systems, labels, NAMES, "s1", draws=0)[1]["s0"].scores["auroc"].macro
    assert without.draws == 0 and np.isfinite(without.value)


def test_a_comparison_needs_its_reference_and_thresholds_for_all():
    systems = {"a": P, "b": P}
    with pytest.raises(ValueError, match="reference is 'c', expected one of a, b"):
        multilabel_comparison(systems, Y, NAMES, "c", draws=5)
    with pytest.raises(ValueError, match="thresholds for a, expected some for a, b"):
        multilabel_comparison(systems, Y, NAMES, "a", thresholds={"a": {}}, draws=5)
