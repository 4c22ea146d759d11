"""Statistics against arithmetic, scipy and enumeration; nan and lonely patients included."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossbeat.errors import SettingsError
from crossbeat.statistics import (
    FEWEST_PATIENTS,
    agreement_table,
    bland_altman,
    bootstrap_interval,
    crossed_interval,
    crossed_mean,
    crossed_ratio_interval,
    holm,
    mean_sd,
    median,
    patient_means,
    rank_biserial,
    summarise,
    summary_table,
    wilcoxon,
)

NAN = float("nan")


def table() -> pd.DataFrame:
    """Two vendors, three patients; patient c has two scans; one undefined, one missed; slices besides."""
    lines = [
        ("a", "A", "LV", "", 0.9, "ok"),
        ("b", "A", "LV", "", 0.7, "ok"),
        ("c", "B", "LV", "", 0.5, "ok"),
        ("c", "B", "LV", "", 0.7, "ok"),
        ("a", "A", "RV", "", 0.0, "missed"),
        ("b", "A", "RV", "", NAN, "undefined"),
        ("a", "A", "LV", "base", 0.4, "ok"),
        ("b", "A", "LV", "base", 0.6, "ok"),
    ]
    frame = pd.DataFrame(lines, columns=["subject", "vendor", "structure", "level", "value", "status"])
    frame["slice"] = pd.array([None if not level else 3 for level in frame["level"]], dtype="Int64")
    return frame.assign(metric="dice", unit="", phase="ED")


def test_a_patient_counts_once_however_many_frames_he_has() -> None:
    values, patients = [0.9, 0.5, 0.6, 0.7], ["a", "b", "b", "b"]
    np.testing.assert_allclose(patient_means(values, patients), [0.9, 0.6])
    mean, sd = mean_sd(values, patients)
    assert mean == pytest.approx(0.75)
    assert sd == pytest.approx(0.3 / np.sqrt(2))
    assert median([*values, 0.1], [*patients, "c"]) == pytest.approx(0.6)


def test_nan_is_left_out_of_a_patient_and_a_patient_of_nan_altogether() -> None:
    np.testing.assert_allclose(patient_means([NAN, 0.4, NAN], ["a", "a", "b"]), [0.4])


def test_values_without_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="one patient a value"):
        patient_means([1.0, 2.0], ["a"])


def test_a_summary_counts_what_is_not_in_the_mean() -> None:
    found = summarise([0.9, NAN, 0.0, 0.6], ["a", "a", "b", "c"], ["ok", "undefined", "missed", "ok"])
    assert (found.n_patients, found.n, found.undefined, found.missed) == (3, 3, 1, 1)
    assert found.mean == pytest.approx(0.5)
    assert found.sd == pytest.approx(np.std([0.9, 0.0, 0.6], ddof=1))
    assert found.median == 0.6


def test_one_patient_has_a_mean_but_neither_spread_nor_interval() -> None:
    found = summarise([0.8, 0.9], ["a", "a"])
    assert found.mean == pytest.approx(0.85)
    assert np.isnan([found.sd, found.low, found.high]).all()
    assert found.n_patients == 1


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_nothing_gives_nan_and_no_count(values: list[float]) -> None:
    found = summarise(values, ["a", "b"][: len(values)])
    assert (found.n, found.n_patients, found.undefined) == (0, 0, len(values))
    assert np.isnan([found.mean, found.sd, found.median, found.low, found.high]).all()


def test_the_interval_agrees_with_scipy() -> None:
    """BCa of 20 skewed values, with ten thousand draws each: only the draws differ.

    scipy does not expand for few values; asked for the level that reaches as far, it gives the same.
    """
    values = 1 - np.random.default_rng(3).gamma(1.0, 0.08, 20)
    ours = bootstrap_interval(values, list(range(20)), draws=10000, seed=1)
    level = 1 - 2 * stats.norm.cdf(-np.sqrt(20 / 19) * 2.09302)  # t(19)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=10000,
        method="BCa",
        confidence_level=level,
        rng=np.random.default_rng(2),
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.003)
    skew = values.mean() - (ours[0] + ours[1]) / 2
    assert skew > 0.001  # a symmetric interval would not look down the long tail


@pytest.mark.parametrize(("lost", "apart"), [(1, 0.06), (2, 0.02)])
def test_the_seed_of_the_bootstrap_does_not_decide_an_interval(lost: int, apart: float) -> None:
    """Ten patients of whom one or two have nothing found: BCa reads beyond the last thirty of 5000 draws.

    Drawing one lost patient once more moves a mean by 0.08, so draws lie in lumps, and a limit between two of them.
    """
    rng = np.random.default_rng(0)
    dice = np.r_[np.zeros(lost), rng.normal(0.78, 0.06, 10 - lost)]
    limits = [bootstrap_interval(dice, list(range(10)), seed=seed) for seed in range(4)]
    for side in zip(*limits, strict=True):
        assert max(side) - min(side) < apart
    assert limits[0] == bootstrap_interval(dice, list(range(10)), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("patients", [8, 10, 30])
def test_the_interval_covers_the_mean_about_as_often_as_it_says(patients: int) -> None:
    """Of 400 simulated groups; 95 % ± three standard errors are 91.7 to 98.3 %."""
    rng = np.random.default_rng(patients)
    hits = 0
    for k in range(400):
        low, high = bootstrap_interval(
            rng.normal(0.8, 0.1, patients), list(range(patients)), draws=1000, seed=k
        )
        hits += low <= 0.8 <= high
    assert 0.917 <= hits / 400 <= 0.983


@pytest.mark.slow
def test_the_interval_of_ten_patients_holds_for_skewed_dice_too() -> None:
    """Dice as it falls: piled up below 0.95 with a tail of bad patients, mean 0.87. An interval that fails
    more often than one in eight would not be worth its name; no method gets all of a skewed ten."""
    rng, hits = np.random.default_rng(1), 0
    for k in range(400):
        low, high = bootstrap_interval(0.95 - rng.gamma(2, 0.04, 10), list(range(10)), draws=1000, seed=k)
        hits += low <= 0.87 <= high
    assert hits / 400 >= 0.90


def test_fewer_than_eight_patients_have_no_interval_however_many_frames_they_have() -> None:
    values = np.linspace(0.6, 0.9, 70)
    few = bootstrap_interval(values, (np.arange(70) % (FEWEST_PATIENTS - 1)).tolist())
    assert np.isnan(few).all()
    assert np.isfinite(bootstrap_interval(values, (np.arange(70) % FEWEST_PATIENTS).tolist())).all()
    found = summarise([0.5, 0.7, 0.9], list("abc"))
    assert (found.n_patients, found.mean) == (3, pytest.approx(0.7))
    assert np.isnan([found.low, found.high]).all()


def test_the_interval_widens_when_values_come_from_fewer_patients() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 12).repeat(10)
    alone = bootstrap_interval(values, list(range(120)))
    together = bootstrap_interval(values, np.arange(12).repeat(10).tolist())
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_the_interval_is_the_same_for_the_same_seed_and_ignores_nan() -> None:
    values, patients = [0.9, 0.8, 0.85, 0.4, 0.7, 0.75, 0.6, 0.65], list("abcdefgh")
    assert bootstrap_interval(values, patients, seed=4) == bootstrap_interval(values, patients, seed=4)
    assert bootstrap_interval([*values, NAN], [*patients, "i"]) == bootstrap_interval(values, patients)


def test_a_higher_level_gives_a_wider_interval_and_an_impossible_one_is_refused() -> None:
    values, patients = np.linspace(0.5, 0.9, 10), list(range(10))
    narrow, wide = (bootstrap_interval(values, patients, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    with pytest.raises(SettingsError, match="level 95: a confidence level lies between 0 and 1"):
        bootstrap_interval(values, patients, level=95)


def test_patients_who_agree_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.5] * 8, list("abcdefgh")) == (0.5, 0.5)


@given(st.lists(st.floats(0, 1), min_size=8, max_size=14), st.sampled_from([0.5, 0.95, 0.9999]))
def test_the_interval_lies_among_the_values(values: list[float], level: float) -> None:
    low, high = bootstrap_interval(values, list(range(len(values))), draws=100, level=level)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_a_large_cohort_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, patients = np.random.default_rng(0).random(40), list(range(40))
    whole = bootstrap_interval(values, patients)
    monkeypatch.setattr("crossbeat.statistics.bootstrap._CHUNK", 100)
    assert bootstrap_interval(values, patients) == whole


def crossed(
    rng: np.random.Generator, n: int, seeds: int, of_patient: float, of_seed: float, rest: float
) -> np.ndarray:
    """Mean 0.8, with SDs of what is the patient's, what is the seed's, and what is neither's."""
    return np.asarray(
        0.8
        + rng.normal(0, of_patient, (n, 1))
        + rng.normal(0, of_seed, (1, seeds))
        + rng.normal(0, rest, (n, seeds))
    )


def test_one_seed_has_the_interval_of_its_patients() -> None:
    values = 1 - np.random.default_rng(4).gamma(1.0, 0.08, 13)
    assert crossed_interval(values[:, None]) == bootstrap_interval(values, list(range(13)))
    beside_nothing = np.stack([values, np.full(13, NAN)], axis=1)
    assert crossed_interval(beside_nothing) == bootstrap_interval(values, list(range(13)))


def test_seeds_that_agree_are_as_one() -> None:
    values = np.random.default_rng(4).normal(0.8, 0.1, (20, 1))
    alone, twice = crossed_interval(values), crossed_interval(values.repeat(5, axis=1))
    np.testing.assert_allclose(alone, twice, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "seeds", "of_patient", "of_seed", "rest"),
    [
        (20, 5, 0.05, 0.01, 0.03),
        (20, 3, 0.05, 0.03, 0.03),
        (12, 3, 0.1, 0.02, 0.03),
        (30, 5, 0.0, 0.02, 0.03),
    ],
)
def test_the_crossed_interval_covers_the_mean_about_as_often_as_it_says(
    patients: int, seeds: int, of_patient: float, of_seed: float, rest: float
) -> None:
    """Of 200 simulated studies with known parts. Patients alone would miss the mean far more often."""
    rng, hits, of_patients_alone = np.random.default_rng(patients + seeds), 0, 0
    for k in range(200):
        values = crossed(rng, patients, seeds, of_patient, of_seed, rest)
        low, high = crossed_interval(values, draws=400, seed=k)
        hits += low <= 0.8 <= high
        low, high = bootstrap_interval(values.mean(axis=1), list(range(patients)), draws=400, seed=k)
        of_patients_alone += low <= 0.8 <= high
    assert 0.90 <= hits / 200 <= 0.99
    assert of_patients_alone < hits


def test_the_crossed_mean_is_over_patients_of_their_means_over_seeds() -> None:
    assert crossed_mean([[0.2, 0.4], [0.9, NAN], [NAN, NAN]]) == pytest.approx(0.6)
    assert np.isnan(crossed_mean(np.full((3, 2), NAN)))


def test_a_patient_without_a_seed_stays_in_the_crossed_interval() -> None:
    values = crossed(np.random.default_rng(0), 20, 4, 0.05, 0.02, 0.02)
    whole = crossed_interval(values)
    values[3, 1] = values[7, :3] = NAN
    np.testing.assert_allclose(crossed_interval(values), whole, atol=0.01)
    assert crossed_interval(values, seed=2) == crossed_interval(values, seed=2)
    assert np.isnan(crossed_interval(values[:7])).all()


def test_a_crossed_table_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of a part differ, the law they follow does not."""
    values = crossed(np.random.default_rng(0), 20, 4, 0.05, 0.02, 0.02)
    whole = crossed_interval(values)
    monkeypatch.setattr("crossbeat.statistics.bootstrap._CHUNK", 1000)
    np.testing.assert_allclose(crossed_interval(values), whole, atol=0.004)


def test_values_that_all_agree_have_a_crossed_interval_of_no_width() -> None:
    assert crossed_interval(np.full((9, 3), 0.5)) == (0.5, 0.5)
    turned = np.indices((10, 2)).sum(axis=0) % 2  # no patient and no seed stands out
    low, high = crossed_interval(turned)
    assert 0 <= low < 0.5 < high <= 1


def test_a_ratio_has_the_interval_of_its_mean_where_the_denominator_is_fixed() -> None:
    values = crossed(np.random.default_rng(1), 20, 3, 0.05, 0.02, 0.02)
    found = crossed_ratio_interval(values, np.full_like(values, 2.0))
    np.testing.assert_allclose(found, np.array(crossed_interval(values)) / 2)
    # the same numbers negated above and below are the same ratio
    np.testing.assert_allclose(crossed_ratio_interval(-values, np.full_like(values, -2.0)), found, atol=0.002)
    np.testing.assert_allclose(crossed_ratio_interval(0.3 * values, values), (0.3, 0.3))
    assert np.isnan(crossed_ratio_interval(values[:5], values[:5])).all()


def test_tables_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"table of patients by seeds, got shape \(3,\)"):
        crossed_interval([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="tables of one shape"):
        crossed_ratio_interval(np.ones((9, 2)), np.ones((9, 3)))


def test_the_table_parts_by_what_is_asked_and_counts_failures() -> None:
    found = summary_table(table(), by=["structure", "vendor"]).set_index(["structure", "vendor"])
    assert found.loc[("LV", "A"), "mean"] == pytest.approx(0.8)
    assert found.loc[("LV", "B"), ["mean", "n", "n_patients"]].tolist() == [pytest.approx(0.6), 2, 1]
    assert found.loc[("RV", "A"), ["mean", "n", "undefined", "missed"]].tolist() == [0.0, 1, 1, 1]
    assert set(found["metric"]) == {"dice"}


def test_volumes_and_slices_are_never_mixed() -> None:
    whole = summary_table(table(), by=["structure"]).set_index("structure")
    assert whole.loc["LV", "mean"] == pytest.approx((0.9 + 0.7 + 0.6) / 3)
    slices = summary_table(table(), by=["structure", "level"])
    assert slices[["structure", "level", "mean", "n"]].to_numpy().tolist() == [["LV", "base", 0.5, 2]]
    as_text = table().assign(
        slice=table()["slice"].astype(object).map(lambda z: "" if pd.isna(z) else str(z))
    )
    pd.testing.assert_frame_equal(summary_table(as_text), summary_table(table()))


def test_no_scores_give_an_empty_table_with_its_columns() -> None:
    found = summary_table(table().iloc[:0])
    assert found.empty
    assert {"structure", "phase", "metric", "unit", "mean", "missed"} <= set(found.columns)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(SettingsError, match="no column 'vendors' to sum up by; did you mean 'vendor'"):
        summary_table(table(), by=["vendors"])


def signed_rank_p(differences: list[float]) -> float:
    """Exact two-sided p of the signed-rank statistic by all signs, for distinct non-zero differences."""
    ranks = stats.rankdata(np.abs(differences))
    observed = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    middle = sum(ranks) / 2
    return float(np.mean([abs(s - middle) >= abs(observed - middle) for s in sums]))


def test_wilcoxon_is_exact_by_enumeration() -> None:
    differences = [0.05, -0.01, 0.08, 0.02, 0.11, 0.07, -0.03, 0.04]
    found = wilcoxon(np.array(differences) + 0.8, [0.8] * 8, list("abcdefgh"))
    assert found.p == pytest.approx(signed_rank_p(differences))
    assert found.median_difference == pytest.approx(0.045)
    assert found.n_patients == 8


def test_wilcoxon_runs_over_patients_and_counts_broken_pairs() -> None:
    """Five patients of one sign: p = 2 / 2^5, were each of them there twice or not."""
    a, patients = np.linspace(0.81, 0.89, 5).repeat(2), list("aabbccddee")
    found = wilcoxon([*a, NAN], [*(a - a**2 / 10), 0.5], [*patients, "f"])
    assert found.p == pytest.approx(2 / 2**5)
    assert (found.n_patients, found.undefined) == (5, 1)


def test_wilcoxon_of_nothing_is_nan_and_of_no_difference_one() -> None:
    assert np.isnan(wilcoxon([NAN], [1.0], ["a"]).p)
    assert wilcoxon([0.5, 0.6], [0.5, 0.6], ["a", "b"]).p == 1.0
    assert wilcoxon([0.5], [0.6], ["a"]).p == 1.0


def test_the_rank_biserial_correlation_on_paper() -> None:
    """Differences -1, 2, 3, 0, -4: ranks 1, 2, 3 and 4 of the four unequal; (2 + 3 - 1 - 4) / 10."""
    assert rank_biserial([9, 12, 13, 10, 6], [10] * 5, list("abcde")) == pytest.approx(0.0)
    assert rank_biserial([9, 12, 13, 10, 10.5], [10] * 5, list("abcde")) == pytest.approx(
        (-2 + 3 + 4 + 1) / 10
    )
    assert rank_biserial([1, 2], [0, 0], list("ab")) == 1.0
    assert rank_biserial([1, 2], [3, 3], list("ab")) == -1.0
    assert rank_biserial([1, 2], [1, 2], list("ab")) == 0.0
    assert np.isnan(rank_biserial([NAN], [1.0], ["a"]))
    # two frames of a patient are one difference
    assert rank_biserial([1, -3, 2], [0, 0, 0], ["a", "a", "b"]) == pytest.approx((-1 + 2) / 3)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must come in pairs"):
        wilcoxon([1.0, 2.0], [1.0], ["a", "b"])


def test_holm_on_paper() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2 raised to the one before, 0.6; nan is no test."""
    np.testing.assert_allclose(holm([0.03, 0.01, NAN, 0.6, 0.02]), [0.06, 0.04, NAN, 0.6, 0.06])
    np.testing.assert_allclose(holm([0.4, 0.9]), [0.8, 0.9])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_nor_exceeds_bonferroni(p: list[float]) -> None:
    found = holm(p)
    assert (found >= np.array(p)).all()
    assert (found <= np.minimum(np.array(p) * len(p), 1)).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_bland_altman_on_paper() -> None:
    """Differences 1, 2, 3, 6: mean 3, SD sqrt(14 / 3); t(3) = 3.1824."""
    found = bland_altman([11, 22, 33, 46], [10, 20, 30, 40], list("abcd"))
    sd = np.sqrt(14 / 3)
    assert (found.n, found.bias) == (4, 3.0)
    assert found.low == pytest.approx(3 - 1.95996 * sd, abs=1e-4)
    assert found.high == pytest.approx(3 + 1.95996 * sd, abs=1e-4)
    np.testing.assert_allclose(found.bias_interval, 3 + np.array([-1, 1]) * 3.18245 * sd / 2, atol=1e-4)
    width = 3.18245 * sd * np.sqrt(1 / 4 + 1.95996**2 / 6)
    np.testing.assert_allclose(found.high_interval, found.high + np.array([-1, 1]) * width, atol=1e-4)
    np.testing.assert_allclose(found.low_interval, found.low + np.array([-1, 1]) * width, atol=1e-4)


def test_two_scans_of_a_patient_are_one_difference() -> None:
    """Differences 2 and 4 of a patient are 3; with 1 and 5 of two others: mean 3, SD 2, t(2) = 4.3027."""
    found = bland_altman([12, 14, 11, 15, NAN], [10] * 5, ["a", "a", "b", "c", "c"])
    assert (found.n, found.bias, found.sd, found.undefined) == (3, 3.0, 2.0, 1)
    np.testing.assert_allclose(
        found.bias_interval, 3 + np.array([-1, 1]) * 4.30265 * 2 / np.sqrt(3), atol=1e-4
    )


def test_bland_altman_leaves_nan_out_and_says_so() -> None:
    assert bland_altman([1, NAN, 3], [0, 5, NAN], list("abc")).undefined == 2
    lonely = bland_altman([1, NAN], [0, 5], list("ab"))
    assert (lonely.n, lonely.bias) == (1, 1.0)
    assert np.isnan([lonely.low, lonely.high, *lonely.bias_interval]).all()
    assert np.isnan(bland_altman([], [], []).bias)


def test_the_agreement_table_has_a_row_an_index_and_counts_what_is_not_in_it() -> None:
    """Patient a has two scans, +10 and +30; b is 10 too small; c was missed, d was not drawn, e has neither."""
    pairs = pd.DataFrame(
        {
            "index": ["lv_edv_ml"] * 6 + ["rv_edv_ml"],
            "subject": list("aabcdea"),
            "predicted": [100.0, 120.0, 120.0, NAN, 60.0, NAN, NAN],
            "reference": [90.0, 90.0, 130.0, 80.0, NAN, NAN, 70.0],
        }
    )
    found = agreement_table(pairs).set_index("index")
    lv = found.loc["lv_edv_ml"]
    assert lv[["n", "pairs", "undefined", "missed", "not_in_reference"]].tolist() == [2, 3, 3, 1, 1]
    assert lv[["bias", "mae"]].tolist() == [5.0, 15.0]
    assert lv["high"] == pytest.approx(5 + 1.95996 * np.sqrt(450), abs=1e-3)
    assert lv["bias_interval_high"] == pytest.approx(5 + 12.7062 * 15, abs=1e-2)  # t(1)
    assert found.loc["rv_edv_ml", ["n", "missed"]].tolist() == [0, 1]
    assert np.isnan(found.loc["rv_edv_ml", "mae"])
    assert agreement_table(pairs.iloc[:0]).empty
