"""The league in plain sentences: which method to take, how sure that is, and what cannot be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crossbeat.report.wording import NOTHING_FOUND, p_value

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT: Final = 0.05
"""Corrected p below which two arms count as told apart."""

_SIZES: Final = {
    "demo": "Demonstration size: trained so briefly that this ranks nothing; it is not a result.",
    "bench": "Bench size: arms were trained more briefly than their papers ask, which may change their order.",
}


def caveat(size: str) -> str:
    """What must be said of a study's size before any verdict; '' of a full one."""
    return _SIZES.get(size, "")


@dataclass(frozen=True)
class Recommendation:
    """What a study advises, from the league alone."""

    arm: str
    """The arm between the bounds with the best mean Dice; empty where there is none, or none that found a heart."""
    runner_up: str
    beats_reference: bool | None
    """Whether it is better than the reference arm and told apart from it; None where nobody tested that."""
    beats_runner_up: bool | None
    sentences: tuple[str, ...]


def recommend(
    league: pd.DataFrame,
    arms: Iterable[str],
    *,
    lower: str = "source_only",
    upper: str = "target_supervised",
) -> Recommendation:
    """Name the best arm between the bounds by mean Dice, and say how sure that is.

    `arms` are those of the study, whether they have scores or not. The structure is `mean`, else the mean over most
    structures, else the first one. Two arms are told apart where Holm's corrected p is below 0.05 and the interval of
    their difference, which knows of seeds, leaves out 0. Arms that found next to nothing are not recommended.
    """
    names = list(arms)
    dice = league[league["metric"] == "dice"]
    structure = _headline(dice["structure"])
    rows = {str(line["arm"]): line for line in dice[dice["structure"] == structure].to_dict("records")}
    missing = [name for name in names if name not in rows]
    last = [f"Without scores, and so left out: {', '.join(missing)}."] if missing else []
    between = [name for name in names if name not in (lower, upper)]
    if _nothing_found([rows[name] for name in between if name in rows] or list(rows.values())):
        return Recommendation("", "", None, None, (*_no_heart(rows, between, structure), *last))
    ranked = sorted((arm for arm in rows if _rank(rows[arm]) > 0), key=lambda arm: _rank(rows[arm]))
    if not ranked:
        told = _only_bounds(rows, between, structure, lower, upper)
        return Recommendation("", "", None, None, (*told, *last))
    best, line = ranked[0], rows[ranked[0]]
    runner_up = ranked[1] if len(ranked) > 1 else ""
    apart = _apart(line, "difference", "p_holm")
    ahead_of_reference = apart if apart is None else apart and line["difference"] > 0
    ahead_of_next = _behind(rows[runner_up]) if runner_up else None
    sentences = (
        _alike(rows, ranked),
        _best(best, line, structure),
        _beside_reference(best, line, apart),
        _beside_next(runner_up, rows, ahead_of_next),
        _closed(best, line, lower, upper),
        _counted(best, rows),
        *last,
    )
    return Recommendation(
        best, runner_up, ahead_of_reference, ahead_of_next, tuple(s for s in sentences if s)
    )


Line = Mapping[Any, Any]


def _headline(structures: Iterable[str]) -> str:
    known = list(dict.fromkeys(structures))
    means = sorted((s for s in known if s.split()[0] == "mean"), key=lambda s: (s != "mean", -len(s.split())))
    return (means or known or [""])[0]


def _rank(line: Line) -> int:
    return int(line["rank"])


def _nothing_found(lines: Iterable[Line]) -> bool:
    """Whether there are figures, and none of them is that of an arm that found the heart."""
    means = [line["mean"] for line in lines if not math.isnan(line["mean"])]
    return bool(means) and max(means) < NOTHING_FOUND


def _apart(line: Line, difference: str, p: str) -> bool | None:
    """Whether two arms differ by p and by interval; None where there was no pair to test."""
    if math.isnan(line[p]):
        return None
    low, high = line[f"{difference}_low"], line[f"{difference}_high"]
    return bool(line[p] < SIGNIFICANT and (low > 0 or high < 0))


def _behind(line: Line) -> bool | None:
    """Whether an arm is told apart from the best, and on the worse side of it."""
    apart = _apart(line, "to_best", "p_best")
    return apart and bool(line["to_best"] < 0)


def _figures(line: Line, difference: str, p: str) -> str:
    """The difference with its interval and p, and what it means where the two contradict each other."""
    low, high = f"{difference}_low", f"{difference}_high"
    told = f"difference {line[difference]:+.3f}{_interval(line, low, high, '{:+.3f}'.format)}"
    told += f"; Wilcoxon, Holm's p {'' if line[p] < 0.001 else '= '}{p_value(line[p])}"
    if line[p] < SIGNIFICANT and line[low] <= 0 <= line[high]:
        told += ", of these trainings: with other seeds it may be the other way round"
    if line[p] < SIGNIFICANT and math.isnan(line[low]):
        told += ", of too few patients to go by"
    return told


def _no_heart(rows: Mapping[str, Line], between: list[str], structure: str) -> list[str]:
    """What is said where there is nothing to recommend, since nothing was found."""
    methods = [name for name in between if name in rows]
    figures = ", ".join(f"{name} {rows[name]['mean']:.3f}" for name in methods or rows)
    told = [
        f"No {'method' if methods else 'arm'} found the heart, so none is recommended: "
        f"{_what(structure)} below {NOTHING_FOUND:g} ({figures})."
    ]
    others = [f"{name} {rows[name]['mean']:.3f}" for name in rows if methods and name not in methods]
    told += [f"{_capital(_what(structure))} of the bounds: {' and '.join(others)}."] if others else []
    return [*told, "Slices and learning curves show whether the training was too short."]


def _alike(rows: Mapping[str, Line], ranked: list[str]) -> str:
    if len(ranked) < 2 or any(_behind(rows[arm]) is not False for arm in ranked[1:]):
        return ""
    return f"The scores of the {len(ranked)} methods cannot be told apart, so none is recommended over the others."


def _what(structure: str) -> str:
    return "mean Dice" if structure == "mean" else f"Dice ({structure})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _best(best: str, line: Line, structure: str) -> str:
    return f"{best} has the best {_what(structure)} of the methods: {line['mean']:.3f}{_interval(line, 'low', 'high')}."


def _interval(line: Line, low: str, high: str, say: Callable[[float], str] = "{:.3f}".format) -> str:
    if math.isnan(line[low]):
        return " (no interval can be given)"
    return f" (95 % interval {say(line[low])} to {say(line[high])})"


def _beside_reference(best: str, line: Line, apart: bool | None) -> str:
    reference = line["reference"]
    if best == reference:
        return (
            f"It is the arm that the others were tested against; none of them has a better mean than {best}."
        )
    if apart is None:
        return f"It could not be tested against {reference}: they share no patient."
    figures = _figures(line, "difference", "p_holm")
    if not apart:
        return f"It cannot be told apart from {reference}: {figures}."
    verdict = "It is better" if line["difference"] > 0 else "Even so it is worse"
    return f"{verdict} than {reference}: {figures}."


def _beside_next(runner_up: str, rows: Mapping[str, Line], apart: bool | None) -> str:
    if not runner_up:
        return "No other method was compared, so nothing is said of a choice between methods."
    line = rows[runner_up]
    second = f"the runner-up, {runner_up} ({line['mean']:.3f})"
    if apart is None:
        return f"It could not be tested against {second}: they share no patient."
    # said of the best beside the runner-up; the league has it the other way round
    turned = dict(line) | {
        "to_best": -line["to_best"],
        "to_best_low": -line["to_best_high"],
        "to_best_high": -line["to_best_low"],
    }
    figures = _figures(turned, "to_best", "p_best")
    if apart:
        return f"It is told apart from {second}: {figures}."
    others = [arm for arm, row in rows.items() if _rank(row) > 1 and arm != runner_up and not _behind(row)]
    more = f" Nor can it from {', '.join(others)}." if others else ""
    return f"It cannot be told apart from {second}: {figures}.{more}"


def _closed(best: str, line: Line, lower: str, upper: str) -> str:
    if math.isnan(line["gap_closed"]):
        gap = f"the gap between {lower} and {upper}"
        return f"What share of {gap} it closes cannot be said: {_why_no_gap(lower, upper)}."
    interval = _interval(line, "gap_low", "gap_high", _percent)
    more = f", so it is better than {lower}" if line["reference"] != lower and line["gap_low"] > 0 else ""
    return f"It closes {_percent(line['gap_closed'])} of the gap between {lower} and {upper}{interval}{more}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _why_no_gap(lower: str, upper: str) -> str:
    return f"{upper} is not surely better than {lower}"


def _counted(best: str, rows: Mapping[str, Line]) -> str:
    line = rows[best]
    patients, seeds = int(line["n_patients"]), int(line["n_seeds"])
    told = f"This rests on {_number(patients, 'patient')} and {_number(seeds, 'seed')}"
    if seeds == 1:
        told += "; how much a second training would differ is not in these intervals"
    uneven = [
        arm
        for arm, row in rows.items()
        if arm != best and (int(row["n_patients"]), int(row["n_seeds"])) != (patients, seeds)
    ]
    if uneven:
        counts = (
            f"{arm} on {_number(int(rows[arm]['n_patients']), 'patient')} and "
            f"{_number(int(rows[arm]['n_seeds']), 'seed')}"
            for arm in uneven
        )
        told += f"; not all arms have the same: {', '.join(counts)}"
    return told + "."


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"


def _only_bounds(
    rows: Mapping[str, Line], others: list[str], structure: str, lower: str, upper: str
) -> list[str]:
    if not rows:
        return ["No arm has a Dice yet, so nothing can be recommended."]
    scored = any(arm in rows for arm in others)
    none = (
        "can be ranked, for they share no patient"
        if scored
        else "has scores yet"
        if others
        else "is among the arms"
    )
    told = [f"Only the bounds can be shown: no method between {lower} and {upper} {none}."]
    there = [arm for arm in (lower, upper) if arm in rows]
    figures = " and ".join(
        f"{arm} {rows[arm]['mean']:.3f}{_interval(rows[arm], 'low', 'high')}" for arm in there
    )
    told.append(f"{_capital(_what(structure))}: {figures}.")
    if math.isnan(rows[there[-1]]["gap_closed"]):
        told.append(f"There is no gap to close yet: {_why_no_gap(lower, upper)}.")
    counts = {(int(rows[a]["n_patients"]), int(rows[a]["n_seeds"])) for a in there}
    told += [f"This rests on {_number(n, 'patient')} and {_number(s, 'seed')}." for n, s in sorted(counts)]
    return told
