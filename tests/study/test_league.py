"""The league against scipy, brute force and arithmetic on paper; what it refuses to say; and the files it becomes."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pytest
from scipy import stats

from crossbeat.errors import FileError, RunError, SettingsError
from crossbeat.statistics import bootstrap_interval, holm
from crossbeat.study.league import (
    LEAGUE_COLUMNS,
    Published,
    breakdown,
    caveat,
    league,
    recommend,
    side_by_side,
)
from crossbeat.study.results import read_table, to_latex, write_results

NAN = float("nan")
LOWER, UPPER = "source_only", "target_supervised"
COLUMNS = [
    *("arm", "seed", "fold", "subject", "scan", "phase", "level", "structure", "metric", "unit", "value"),
    *("status", "vendor", "centre", "group"),
]  # fmt: skip


def rows(
    arm: str,
    values: dict[str, float] | list[float],
    *,
    seed: int = 0,
    phase: str = "ED",
    structure: str = "LV",
    metric: str = "dice",
    unit: str = "",
    status: str = "ok",
    level: str = "",
    fold: int = 0,
) -> list[tuple[object, ...]]:
    """A value a patient; patients are p0, p1, … where they are not named. Odd ones are vendor B."""
    named = values if isinstance(values, dict) else {f"p{i}": v for i, v in enumerate(values)}
    where = (phase, level, structure, metric, unit)
    return [
        (arm, seed, fold, who, f"{who}_scan", *where, v, status, "AB"[int(who[1:]) % 2], "c", "g")
        for who, v in named.items()
    ]  # fmt: skip


def table(*parts: list[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame([line for part in parts for line in part], columns=COLUMNS)


def study(
    means: dict[str, float],
    *,
    patients: int = 12,
    seeds: int = 1,
    seed_sd: float = 0.0,
    noise: float = 0.01,
    structures: tuple[str, ...] = ("mean",),
    metric: str = "dice",
    unit: str = "",
) -> pd.DataFrame:
    """Arms of given means on the same patients, with a part that is the patient's and one that is the seed's."""
    rng = np.random.default_rng(5)
    of_patient = rng.normal(0, 0.05, patients)
    return table(
        *(
            rows(
                arm,
                list(mean + of_patient + rng.normal(0, seed_sd) + rng.normal(0, noise, patients)),
                seed=seed,
                structure=structure,
                metric=metric,
                unit=unit,
            )
            for structure in structures
            for arm, mean in means.items()
            for seed in range(seeds)
        )
    )


def line(found: pd.DataFrame, arm: str, structure: str = "LV", metric: str = "dice") -> "pd.Series[float]":
    chosen = found[(found[["arm", "structure", "metric"]] == [arm, structure, metric]).all(axis=1)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def few(scores: pd.DataFrame, **changes: object) -> pd.DataFrame:
    return league(scores, draws=400, **changes)  # type: ignore[arg-type]


def test_mean_spread_and_median_on_paper() -> None:
    """Two frames of a patient are averaged before his seeds, seeds before patients."""
    scores = table(
        rows(LOWER, [0.2, 0.4], seed=0, phase="ED"),
        rows(LOWER, [0.4, 0.4], seed=0, phase="ES"),
        rows(LOWER, [0.7], seed=1, phase="ED"),
        rows(LOWER, {"p1": 0.6}, seed=1),
        rows(UPPER, [0.9, 0.9]),
    )
    found = line(league(scores), LOWER)
    # p0: seeds 0.3 and 0.7; p1: seeds 0.4 and 0.6
    assert found[["mean", "median"]].tolist() == pytest.approx([0.5, 0.5])
    assert found["sd"] == pytest.approx(0.0)
    assert found["seed_sd"] == pytest.approx(np.std([0.35, 0.65], ddof=1))
    assert found[["n_patients", "n_seeds"]].tolist() == [2, 2]
    assert np.isnan(found[["low", "high"]].astype(float)).all()  # of two patients
    assert np.isnan(line(league(scores), UPPER)["seed_sd"])


def test_the_columns_are_those_of_the_contract_and_arms_keep_their_order() -> None:
    found = few(study({LOWER: 0.5, "z": 0.6, "a": 0.7, UPPER: 0.8}, structures=("LV", "mean")))
    assert tuple(found.columns) == LEAGUE_COLUMNS
    assert found["arm"].tolist() == [LOWER, LOWER, "z", "z", "a", "a", UPPER, UPPER]
    assert found["structure"].tolist() == ["LV", "mean"] * 4


def test_one_seed_has_the_interval_of_a_single_run() -> None:
    scores = study({LOWER: 0.5, "a": 0.6, UPPER: 0.8}, patients=15)
    mine = scores[scores["arm"] == "a"]
    expected = bootstrap_interval(mine["value"], mine["subject"].tolist())
    assert tuple(line(league(scores), "a", "mean")[["low", "high"]]) == expected
    theirs = scores[scores["arm"] == LOWER]["value"].to_numpy()
    difference = bootstrap_interval(mine["value"].to_numpy() - theirs, mine["subject"].tolist())
    ends = line(league(scores), "a", "mean")[["difference_low", "difference_high"]]
    assert tuple(ends) == pytest.approx(difference)


def test_seeds_that_differ_widen_the_interval() -> None:
    alike, apart = (
        line(few(study({LOWER: 0.5, UPPER: 0.8}, seeds=4, seed_sd=sd)), LOWER, "mean") for sd in (0.0, 0.05)
    )
    assert apart["high"] - apart["low"] > 1.5 * (alike["high"] - alike["low"])


def test_p_is_scipys_on_patients_and_the_effect_that_of_all_pairs() -> None:
    scores = study({LOWER: 0.5, "a": 0.51, UPPER: 0.8}, patients=14, seeds=3, noise=0.02)
    values = scores.groupby(["arm", "subject"], sort=False)["value"].mean()
    difference = (values["a"] - values[LOWER]).to_numpy()
    found = line(few(scores), "a", "mean")
    assert found["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert found["difference"] == pytest.approx(difference.mean())
    # the share of Walsh averages (of all pairs, each with itself too) above 0 less that below
    walsh = [
        np.sign(difference[i] + difference[j])
        for i, j in itertools.combinations_with_replacement(range(difference.size), 2)
    ]
    assert found["effect"] == pytest.approx(np.mean(walsh))


def test_holm_corrects_arms_and_structures_together_but_means_apart() -> None:
    means = {LOWER: 0.5, "a": 0.505, "b": 0.51, UPPER: 0.8}
    scores = pd.concat(
        [
            study(means, structures=("LV", "RV", "mean"), noise=0.02),
            study(means, structures=("LV",), metric="assd", unit="mm"),
        ]
    )
    found = few(scores).set_index(["arm", "metric", "structure"])
    arms = ("a", "b", UPPER)
    parts = [(arm, "dice", s) for s in ("LV", "RV") for arm in arms]
    means_alone, distances = [(a, "dice", "mean") for a in arms], [(a, "assd", "LV") for a in arms]
    for family in (parts, means_alone, distances):
        np.testing.assert_allclose(found.loc[family, "p_holm"], holm(found.loc[family, "p"]))
    assert found.xs(LOWER)[["p", "p_holm", "difference"]].isna().all(axis=None)


def test_the_gap_closed_on_paper() -> None:
    """Means 0.5, 0.65 and 0.7 with a patient part that all share: three quarters in every patient."""
    part = np.linspace(-0.1, 0.1, 10)
    scores = table(rows(LOWER, list(0.5 + part)), rows("a", list(0.65 + part)), rows(UPPER, list(0.7 + part)))
    found = few(scores)
    assert [line(found, arm)["gap_closed"] for arm in (LOWER, "a", UPPER)] == pytest.approx([0, 0.75, 1])
    assert line(found, "a")[["gap_low", "gap_high"]].tolist() == pytest.approx([0.75, 0.75])
    assert np.isnan(line(found, UPPER)[["gap_low", "gap_high"]].astype(float)).all()


def test_of_distances_the_upper_bound_is_reached_from_above() -> None:
    part = np.linspace(-1, 1, 10)
    mm = {"metric": "hd95", "unit": "mm"}
    scores = table(
        rows(LOWER, list(20 + part), **mm), rows("a", list(8 + part), **mm), rows(UPPER, list(4 + part), **mm)
    )
    found = line(few(scores), "a", metric="hd95")
    assert found["gap_closed"] == pytest.approx(0.75)
    assert (found["difference"], found["effect"], found["rank"]) == (pytest.approx(-12), -1.0, 1)


def test_the_interval_of_the_gap_agrees_with_scipys_bca_of_the_ratio() -> None:
    """One seed, 30 patients, each with 4000 draws; scipy asked for the level that reaches as far."""
    scores = study({LOWER: 0.5, "a": 0.6, UPPER: 0.7}, patients=30, noise=0.05)
    found = line(league(scores, draws=4000), "a", "mean")
    x = scores.pivot(index="subject", columns="arm", values="value")
    level = 1 - 2 * stats.norm.cdf(-np.sqrt(30 / 29) * stats.t.ppf(0.975, 29))
    theirs = stats.bootstrap(
        (x["a"] - x[LOWER], x[UPPER] - x[LOWER]),
        lambda above, below, axis: above.mean(axis=axis) / below.mean(axis=axis),
        paired=True, vectorized=True, n_resamples=4000, confidence_level=level, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found[["gap_low", "gap_high"]].astype(float), theirs, atol=0.02)


@pytest.mark.parametrize("upper", [0.3, 0.501], ids=["inverted", "not told apart"])
def test_no_share_of_a_gap_that_is_not_there(upper: float) -> None:
    found = few(study({LOWER: 0.5, "a": 0.6, UPPER: upper}, noise=0.03))
    assert found[["gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)


def test_no_share_of_a_gap_that_too_few_patients_show() -> None:
    assert few(study({LOWER: 0.5, "a": 0.6, UPPER: 0.7}, patients=7))["gap_closed"].isna().all()


def test_patients_of_one_arm_only_are_counted_and_stay_out_of_the_pairs() -> None:
    scores = table(
        rows(LOWER, {"p0": 0.5, "p1": 0.5, "p2": 0.1}),
        rows("a", {"p0": 0.6, "p1": 0.8, "p3": 0.9, "p4": 0.9}),
        rows(UPPER, [0.9] * 5),
    )
    found = league(scores)
    assert line(found, "a")["unpaired"] == 3
    assert line(found, "a")["difference"] == pytest.approx(0.2)
    assert line(found, "a")["mean"] == pytest.approx(0.8)
    assert line(found, UPPER)["unpaired"] == 2


def test_a_frame_that_one_arm_has_no_value_of_is_left_out_of_the_pair() -> None:
    """p0 was 0.1 at ES, where the other has no value: the difference is that of ED alone."""
    scores = table(
        rows(LOWER, [0.5, 0.5], phase="ED"), rows(LOWER, [0.1, 0.5], phase="ES"),
        rows("a", [0.6, 0.6], phase="ED"), rows("a", {"p0": NAN}, phase="ES", status="undefined"),
        rows("a", {"p1": 0.6}, phase="ES"), rows(UPPER, [0.9, 0.9]),
    )  # fmt: skip
    found = line(league(scores), "a")
    assert found["difference"] == pytest.approx(0.1)
    assert (found["undefined"], found["unpaired"], found["n_patients"]) == (1, 0, 2)


def test_pairs_are_of_the_seeds_that_both_ran() -> None:
    scores = table(
        rows(LOWER, [0.5, 0.5], seed=0), rows(LOWER, [0.1, 0.1], seed=1), rows("a", [0.6, 0.7], seed=0),
        rows(UPPER, [0.9, 0.9], seed=7),
    )  # fmt: skip
    found = league(scores)
    assert line(found, "a")["difference"] == pytest.approx(0.15)
    assert (line(found, LOWER)["mean"], line(found, LOWER)["n_seeds"]) == (pytest.approx(0.3), 2)
    assert np.isnan(line(found, UPPER)["p"])
    assert line(found, UPPER)["unpaired"] == 2


def test_frames_of_the_same_phase_are_told_apart_by_their_order() -> None:
    scores = table(
        *(rows(LOWER, [v, v], phase="") for v in (0.1, 0.3)), *(rows(UPPER, [v, v], phase="") for v in (0.5, 0.9))
    )  # fmt: skip
    found = league(scores)
    assert line(found, LOWER)["mean"] == pytest.approx(0.2)
    assert line(found, UPPER)["difference"] == pytest.approx(0.5)


def test_folds_of_a_seed_together_are_all_its_patients() -> None:
    scores = table(
        rows(LOWER, [0.5] * 4), rows(UPPER, {"p2": 0.8, "p3": 0.8}, fold=1), rows(UPPER, [0.7, 0.7], fold=0)
    )
    found = line(league(scores), UPPER)
    assert found[["n_patients", "n_seeds", "unpaired"]].tolist() == [4, 1, 0]
    assert found["mean"] == pytest.approx(0.75)


def test_failures_are_counted_over_frames_and_seeds() -> None:
    scores = table(
        rows(LOWER, [0.5] * 3), rows(UPPER, [0.9] * 3),
        *(rows("a", {"p0": 0.0, "p1": 0.0}, seed=s, status="missed") for s in (0, 1)),
        rows("a", {"p2": NAN}, status="undefined"),
    )  # fmt: skip
    found = line(league(scores), "a")
    assert found[["missed", "undefined", "n_patients"]].tolist() == [4, 1, 2]


def test_an_arm_of_nothing_but_undefined_values_has_a_line_and_no_figures() -> None:
    scores = pd.concat(
        [study({LOWER: 0.5, UPPER: 0.8}), table(rows("a", [NAN] * 12, structure="mean", status="undefined"))]
    )
    found = line(few(scores), "a", "mean")
    assert found[["n_patients", "undefined", "unpaired", "rank"]].tolist() == [0, 12, 12, 0]
    assert np.isnan(found[["mean", "low", "difference", "p", "effect", "gap_closed"]].astype(float)).all()


def test_slices_stay_out_of_the_league_and_units_apart() -> None:
    scores = table(
        rows(LOWER, [0.5] * 3), rows(UPPER, [0.9] * 3), rows(LOWER, [0.1] * 3, level="base"),
        rows(LOWER, [7.0] * 3, metric="hd95", unit="mm"), rows(LOWER, [5.0] * 3, metric="hd95", unit="voxel"),
    )  # fmt: skip
    found = league(scores)
    assert line(found, LOWER)["mean"] == pytest.approx(0.5)
    distances = found[found["metric"] == "hd95"]
    assert dict(zip(distances["unit"], distances["mean"], strict=True)) == {"mm": 7.0, "voxel": 5.0}


def test_arms_between_the_bounds_are_ranked_and_compared_with_the_best() -> None:
    scores = study({LOWER: 0.5, "a": 0.6, "b": 0.7, "c": 0.69, UPPER: 0.8})
    found = few(scores).set_index("arm")
    assert found["rank"].to_dict() == {LOWER: 0, "a": 3, "b": 1, "c": 2, UPPER: 0}
    x = scores.pivot(index="subject", columns="arm", values="value")
    p = [stats.wilcoxon(x["c"] - x["b"]).pvalue, stats.wilcoxon(x["a"] - x["b"]).pvalue]
    np.testing.assert_allclose(found.loc[["c", "a"], "p_best"], holm(p))
    assert found.loc["a", "to_best"] == pytest.approx((x["a"] - x["b"]).mean())
    assert found.loc[[LOWER, "b", UPPER], "p_best"].isna().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"reference": "sorce_only"},
            "reference: arm 'sorce_only' has no scores; did you mean 'source_only'",
        ),
        (
            {"lower": "nobody"},
            "lower bound: arm 'nobody' has no scores; known are a, source_only, target_sup",
        ),
        ({"upper": "target_supervise"}, "upper bound: .* did you mean 'target_supervised'"),
    ],
)
def test_an_arm_without_scores_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        league(study({LOWER: 0.5, "a": 0.6, UPPER: 0.8}), **changes)  # type: ignore[arg-type]


def test_a_scan_in_two_folds_of_a_seed_is_refused() -> None:
    scores = table(rows(LOWER, [0.5] * 3), rows(UPPER, [0.8] * 3, fold=0), rows(UPPER, [0.9], fold=2))
    with pytest.raises(
        RunError, match="arm target_supervised: scan 'p0_scan' is scored in folds 0, 2 of seed 0"
    ):
        league(scores)


def test_a_breakdown_on_paper() -> None:
    scores = table(
        rows("a", [0.2, 0.4, 0.6], seed=0), rows("a", [0.4, 0.4, 0.8], seed=1),
        rows("b", [0.0], status="missed"), rows("a", [0.1, 0.3], level="base"),
    )  # fmt: skip
    found = breakdown(scores, "vendor").set_index(["arm", "value"])
    # vendor A: p0 and p2, means over seeds 0.3 and 0.7
    assert found.loc[("a", "A"), ["n_patients", "mean"]].tolist() == pytest.approx([2, 0.5])
    assert found.loc[("a", "A"), "sd"] == pytest.approx(np.std([0.3, 0.7], ddof=1))
    assert found.loc[("a", "B"), ["n_patients", "mean"]].tolist() == pytest.approx([1, 0.4])
    assert found.loc[("b", "A"), "missed"] == 1
    of_level = breakdown(scores, "level")
    assert of_level[["value", "mean", "n_patients"]].to_numpy().tolist() == [["base", pytest.approx(0.2), 2]]
    assert breakdown(scores, "phase")["value"].unique().tolist() == ["ED"]
    with pytest.raises(SettingsError, match="breakdown by 'vendors' is unknown; did you mean 'vendor'"):
        breakdown(scores, "vendors")


def printed(**changes: object) -> Published:
    values = {"where": "Table 1", "arm": "a", "structure": "LV", "metric": "dice", "value": 0.86}
    return Published(**(values | changes))  # type: ignore[arg-type]


def test_printed_values_stand_beside_ours_counted_as_printed() -> None:
    part = [0.5, 0.7]
    scores = table(
        rows(LOWER, part), rows(UPPER, part), rows("a", part, phase="ED"), rows("a", {"p0": 0.9}, phase="ES"),
        rows("a", part, structure="RV"), rows("a", part, structure="mean"),
    )  # fmt: skip
    published = [
        printed(sd=0.03),
        printed(over="frames"),
        printed(over="classes", structure="mean"),
        printed(arm="b"),
        printed(metric="hd", unit="mm", value=9),
        printed(structure="MYO"),
    ]
    found = side_by_side(league(scores), scores, published)
    # patients 0.7 and 0.7; frames 0.5, 0.7, 0.9; classes LV 0.7, RV 0.6
    assert found["ours"].tolist() == pytest.approx([0.7, 0.7, 0.65, NAN, NAN, NAN], nan_ok=True)
    assert found["n"].tolist() == [2, 3, 2, 0, 0, 0]
    assert found["ours_sd"].tolist()[:3] == pytest.approx([0, 0.2, np.std([0.7, 0.6], ddof=1)])
    assert found["difference"][0] == pytest.approx(-0.16)
    assert found["remark"].tolist() == [
        "", "", "", "the arm has no scores yet", "hd is not kept in a study", "MYO is not drawn in these scans",
    ]  # fmt: skip
    assert found["printed_sd"].tolist() == pytest.approx([0.03] + [NAN] * 5, nan_ok=True)


def test_a_printed_distance_is_compared_in_its_own_unit() -> None:
    mm = {"metric": "hd95", "unit": "mm"}
    distances = table(rows(LOWER, [4.0, 6.0], **mm), rows(UPPER, [1.0, 1.0], **mm))
    found = side_by_side(
        league(distances),
        distances,
        [printed(arm=LOWER, metric="hd95", unit=unit, value=5.5) for unit in ("mm", "voxel")],
    )
    assert found["difference"].tolist() == pytest.approx([-0.5, NAN], nan_ok=True)
    assert found["remark"].tolist() == ["", "measured in mm only"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": 86}, "write 0.86 for 86 %"),
        ({"unit": "mm"}, "dice has no unit, got 'mm'"),
        ({"metric": "hd95"}, "hd95 is a distance; write unit: mm or unit: voxel"),
        ({"metric": "dise"}, "'dice', 'jaccard'"),
        ({"over": "slices"}, "'patients', 'frames' or 'classes'"),
        ({"valeu": 1}, "valeu"),
        ({"value": NAN}, "finite number"),
    ],
)
def test_a_printed_value_that_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=words):
        printed(**changes)


def told(scores: pd.DataFrame, arms: list[str] | None = None, **changes: object) -> str:
    found = few(scores, **({"reference": changes.pop("reference")} if "reference" in changes else {}))
    return " ".join(recommend(found, arms or scores["arm"].unique(), **changes).sentences)  # type: ignore[arg-type]


def test_a_clear_winner_is_recommended_with_its_figures() -> None:
    scores = study({LOWER: 0.5, "a": 0.6, "b": 0.7, UPPER: 0.8})
    found = few(scores)
    advice = recommend(found, [LOWER, "a", "b", UPPER])
    assert (advice.arm, advice.runner_up) == ("b", "a")
    assert (advice.beats_reference, advice.beats_runner_up) == (True, True)
    mine = line(found, "b", "mean")
    first, second, third, fourth, fifth = advice.sentences
    assert (
        f"b has the best mean Dice of the methods: {mine['mean']:.3f} (95 % interval {mine['low']:.3f}"
        in first
    )
    assert second.startswith(f"It is better than source_only: difference +{mine['difference']:.3f}")
    assert third.startswith("It is told apart from the runner-up, a (")
    assert "difference +0." in third
    assert f"It closes {100 * mine['gap_closed']:.0f} % of the gap between source_only and target_s" in fourth
    assert "12 patients and 1 seed; how much a second training would differ is not in" in fifth


def test_an_arm_that_finished_its_easy_patients_alone_is_not_the_best() -> None:
    """`half` has a higher mean of its own, and is worse than `whole` on every patient that both have."""
    rng = np.random.default_rng(2)
    easy, hard = rng.uniform(0.85, 0.9, 10), rng.uniform(0.4, 0.5, 10)
    whole = np.concatenate([easy, hard])
    scores = table(
        *(
            rows(arm, list(values), structure="mean")
            for arm, values in {
                LOWER: whole - 0.1, "half": easy - 0.03, "whole": whole, UPPER: whole + 0.05
            }.items()
        )
    )  # fmt: skip
    found = league(scores, draws=400)
    assert line(found, "half", "mean")["mean"] > line(found, "whole", "mean")["mean"]
    assert [line(found, arm, "mean")["rank"] for arm in ("whole", "half")] == [1, 2]
    advice = recommend(found, [LOWER, "half", "whole", UPPER])
    assert (advice.arm, advice.beats_runner_up) == ("whole", True)
    assert "not all arms have the same: " in " ".join(advice.sentences)


def test_arms_that_share_no_patient_are_not_ranked() -> None:
    one, other = {f"p{i}": 0.6 + i / 100 for i in range(8)}, {f"p{i}": 0.7 + i / 100 for i in range(8, 16)}
    every = one | other
    parts = {LOWER: every, "a": one, "b": other, UPPER: {who: value + 0.2 for who, value in every.items()}}
    scores = table(*(rows(arm, values, structure="mean") for arm, values in parts.items()))
    found = league(scores, draws=400)
    assert set(found["rank"]) == {0}
    advice = recommend(found, list(parts))
    assert advice.arm == ""
    assert "can be ranked, for they share no patient" in advice.sentences[0]


def test_a_tie_is_called_one() -> None:
    scores = study({LOWER: 0.5, "a": 0.71, "b": 0.7, "c": 0.7, UPPER: 0.8}, noise=0.03)
    advice = recommend(few(scores), scores["arm"].unique())
    assert advice.beats_runner_up is False
    first, *_, third, _, _ = advice.sentences
    assert first == (
        "The scores of the 3 methods cannot be told apart, so none is recommended over the others."
    )
    assert f"It cannot be told apart from the runner-up, {advice.runner_up} (" in third
    (other,) = {"a", "b", "c"} - {advice.arm, advice.runner_up}
    assert f"Nor can it from {other}." in third


def test_where_nothing_was_found_nobody_is_the_best() -> None:
    """Every method scores next to nothing, on the patients as they come: some still score more than others."""
    rng = np.random.default_rng(3)
    means = {LOWER: 0.0, "a": 0.0, "b": 0.001, UPPER: 0.6}
    scores = table(
        *(rows(arm, list(mean + rng.uniform(0, 0.001, 12)), structure="mean") for arm, mean in means.items())
    )
    found = few(scores)
    assert set(found["rank"]) == {0}
    advice = recommend(found, list(means))
    assert (advice.arm, advice.runner_up) == ("", "")
    words = " ".join(advice.sentences)
    assert "No method found the heart, so none is recommended: mean Dice below 0.01 (a 0.0" in words
    assert "best" not in words
    assert re.search(r"Mean Dice of the bounds: source_only 0\.00\d and target_supervised 0\.60\d\.", words)
    assert r"\textbf" not in to_latex(found)
    bounds = found[found["arm"] == LOWER]
    words = " ".join(recommend(pd.concat([bounds, bounds.assign(arm=UPPER)]), [LOWER, UPPER]).sentences)
    assert "No arm found the heart, so none is recommended" in words
    assert "found the heart" not in told(study({LOWER: 0.5, "a": 0.6, UPPER: 0.8}))


@pytest.mark.slow
def test_what_only_the_seeds_drew_is_not_called_a_difference() -> None:
    """Every patient is better under a, by what its two trainings happened to be better: p alone would believe it."""
    part = np.linspace(-0.1, 0.1, 12)
    noise = np.random.default_rng(0).normal(0, 0.002, (3, 12))
    scores = table(
        *(rows(LOWER, list(0.5 + part), seed=s) for s in (0, 1, 2)),
        *(rows("a", list(0.5 + part + d + noise[s]), seed=s) for s, d in enumerate((-0.03, 0.02, 0.06))),
        *(rows(UPPER, list(0.8 + part), seed=s) for s in (0, 1, 2)),
    )
    found = line(few(scores), "a")
    assert found["p_holm"] < 0.01
    assert found["difference_low"] < 0 < found["difference_high"]
    words = told(scores)
    assert "It cannot be told apart from source_only" in words
    assert "of these trainings: with other seeds it may be the other way round" in words


def test_a_best_method_that_is_worse_than_nothing_is_called_so() -> None:
    words = told(study({LOWER: 0.6, "a": 0.5, UPPER: 0.8}))
    assert "Even so it is worse than source_only: difference -0." in words
    assert "No other method was compared" in words


def test_with_the_bounds_alone_nothing_is_recommended() -> None:
    scores = study({LOWER: 0.5, UPPER: 0.8})
    advice = recommend(few(scores), [LOWER, UPPER])
    assert (advice.arm, advice.beats_reference) == ("", None)
    words = " ".join(advice.sentences)
    assert (
        "Only the bounds can be shown: no method between source_only and target_supervised is among" in words
    )
    assert re.search(r"Mean Dice: source_only 0\.\d{3} \(95 % interval .* and target_supervised 0\.", words)
    words = " ".join(recommend(few(scores), [LOWER, "a", UPPER]).sentences)
    assert "has scores yet" in words
    assert "left out: a." in words
    assert "No arm has a Dice yet" in " ".join(recommend(few(scores).iloc[:0], [LOWER, UPPER]).sentences)


def test_bounds_that_do_not_part_close_no_gap() -> None:
    words = told(study({LOWER: 0.5, "a": 0.6, UPPER: 0.5}, noise=0.03))
    assert "it closes cannot be said: target_supervised is not surely better than source_only" in words


def test_few_patients_give_no_interval_and_no_verdict() -> None:
    words = told(study({LOWER: 0.5, "a": 0.6, UPPER: 0.8}, patients=7))
    assert "(no interval can be given)" in words
    assert "It cannot be told apart from source_only" in words
    assert "of too few patients to go by" in words


def test_what_a_reader_must_know_besides_is_said() -> None:
    scores = study({LOWER: 0.5, "a": 0.6, "b": 0.7, UPPER: 0.8}, seeds=2)
    short = scores[(scores["arm"] != "a") | (scores["seed"] == 0)]
    words = told(short, [LOWER, "a", "b", "broken", UPPER], reference="a")
    assert "Without scores, and so left out: broken." in words
    assert "not all arms have the same: a on 12 patients and 1 seed." in words
    assert "so it is better than source_only" in words  # which was not the reference
    assert "it is not a result" in caveat("demo")
    assert caveat("bench").startswith("Bench size")
    assert caveat("full") == ""


def test_without_a_mean_of_all_three_the_headline_is_the_widest_mean() -> None:
    scores = study({LOWER: 0.5, "a": 0.6, UPPER: 0.8}, structures=("LV", "mean LV MYO"))
    assert "best Dice (mean LV MYO) of the methods" in told(scores)


def test_the_csv_files_come_back_to_the_last_digit(tmp_path: Path) -> None:
    scores = pd.concat(
        [
            study({LOWER: 1 / 3, "a_b": 0.1 + 0.2, UPPER: 0.8}, structures=("LV", "mean"), noise=0.02),
            study({LOWER: 20 / 3}, metric="hd95", unit="mm"),
        ]
    )
    found, parts = few(scores), {"vendor": breakdown(scores, "vendor"), "phase": breakdown(scores, "phase")}
    write_results(found, parts, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "league.csv", "breakdown.csv", "league.json", "league.tex",
    }  # fmt: skip
    pd.testing.assert_frame_equal(read_table(tmp_path / "out" / "league.csv"), found, check_exact=True)
    both = pd.concat([t.assign(by=by) for by, t in parts.items()], ignore_index=True)
    back = read_table(tmp_path / "out" / "breakdown.csv")
    pd.testing.assert_frame_equal(back[both.columns], both, check_exact=True)
    told = json.loads((tmp_path / "out" / "league.json").read_text())
    assert told["league"][0]["p"] is None
    assert [r["mean"] for r in told["league"]] == found["mean"].tolist()
    assert len(told["breakdown"]["vendor"]) == len(parts["vendor"])


def test_no_breakdown_is_a_file_with_a_head(tmp_path: Path) -> None:
    write_results(few(study({LOWER: 0.5, UPPER: 0.8})), {}, tmp_path)
    assert (
        (tmp_path / "breakdown.csv").read_text().startswith("by,arm,value,structure,metric,unit,n_patients")
    )
    assert read_table(tmp_path / "breakdown.csv").empty


def test_results_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = few(study({LOWER: 0.5, UPPER: 0.8}))
    write_results(found, {}, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write = Path.write_text

    def full(path: Path, text: str, **how: str) -> int:
        if "json" in path.name:
            raise OSError("No space left on device")
        return write(path, text, **how)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_results(found.assign(mean=0.0), {}, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"league\.csv: does not exist; `crossbeat study` writes it"):
        read_table(tmp_path / "league.csv")


def test_the_latex_table_is_whole_and_marks_the_best_between_the_bounds() -> None:
    means = {LOWER: 0.5, "few_labels%": 0.6, "b": 0.7, UPPER: 0.8}
    scores = pd.concat(
        [
            study(means, structures=("LV", "MYO", "mean")),
            study({k: 20 * v for k, v in means.items()}, metric="hd95", unit="mm"),
            study({k: 20 * v for k, v in means.items()}, metric="hd95", unit="voxel"),
        ]
    )
    text = to_latex(few(scores))
    lines = text.splitlines()
    assert text.count("{") == text.count("}")
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\begin{tabular}{lrrrr}" in text
    body = [one for one in lines if one.endswith(r"\\")]
    assert len(body) == 5
    assert all(one.count("&") == 4 for one in body)
    assert body[0].split(" & ")[1:] == ["Dice LV", "Dice MYO", "Dice mean", r"HD95 mean (mm) \\"]
    assert not re.search(r"(?<!\\)[_%]", text)
    assert r"few\_labels\%" in text
    assert r"source\_only (lower bound)" in text
    bold = [one for one in body if r"\textbf" in one]
    dice = [one for one in bold if one.strip().startswith("b &")]
    assert len(dice) == 1
    assert dice[0].count(r"\textbf") == 3
    assert [one.strip()[:4] for one in bold if one not in dice] == [
        "few\\"
    ]  # the smallest distance of the two
    assert "whether or not it can be told from the next" in text
    assert r"$\pm$" in body[1]


def test_a_latex_cell_of_nothing_is_a_dash() -> None:
    scores = pd.concat([study({LOWER: 0.5, UPPER: 0.8}, structures=("LV",)), table(rows("a", [NAN] * 3))])
    row = next(one for one in to_latex(few(scores)).splitlines() if one.strip().startswith("a "))
    assert row.strip() == r"a & -- \\"
