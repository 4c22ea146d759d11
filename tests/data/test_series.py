"""The words of a DICOM header tell the sequence; words inside other words, and days, do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees

from crossbeat.data.series import SeriesHeader, sequence_of
from crossbeat.data.studies import index_dicom


def header(words: str, variant: str = "") -> SeriesHeader:
    return SeriesHeader(Path(), 1, words, words.lower(), (), "", variant, "", "")


@pytest.mark.parametrize(
    ("words", "frames", "sequence"),
    [
        ("cine stage 2", 25, "bssfp"),
        ("cine sax percentage", 25, "bssfp"),
        ("cine trigger delay", 25, "bssfp"),
        ("cine sax template", 25, "bssfp"),
        ("axe court de coeur", 1, "unknown"),
        ("dept of medicine", 1, "unknown"),
        ("gridded recon, distir", 1, "unknown"),
        ("T2* sax", 1, "unknown"),
        ("CINESAX", 20, "bssfp"),
        ("cine_tf2d14_retro_iPAT *tfi2d1_15", 25, "bssfp"),
        ("sa_sBTFE_BH", 30, "bssfp"),
        ("B-TFE BH", 30, "bssfp"),
        ("tfl_tag_sax", 20, "tagged"),
        ("cine gridtag SA", 20, "tagged"),
        ("cine tag 8mm", 20, "tagged"),
        ("CSPAMM_3", 20, "tagged"),
        ("10min_DE_SAX *ir_tfl2d", 1, "lge"),
        ("de-MRI short", 1, "lge"),
        ("Late Gd", 1, "lge"),
        ("delayed enhancement", 1, "lge"),
        ("PSIRTFL_2d", 1, "lge"),
        ("viability SA", 1, "lge"),
        ("t2w_stir", 1, "t2"),
        ("T2-TSE sa", 1, "t2"),
        ("oedema", 1, "t2"),
        ("psir trufi", 1, "lge"),
    ],
)
def test_words_count_where_they_stand_alone(words: str, frames: int, sequence: str) -> None:
    assert sequence_of(header(words), frames).sequence == sequence


@pytest.mark.parametrize(
    ("words", "variant", "frames", "sequence", "remark"),
    [
        ("sax late phases", "['SK', 'SS']", 25, "bssfp", "says 'late', as lge would, but it is a cine"),
        ("Verlauf Tag 2", "SS", 25, "bssfp", "says 'tag', as tagged would, but it is a cine in steady state"),
        ("cine T2 trufi", "", 25, "bssfp", "says 't2', as t2 would"),
        ("sax late", "['SS', 'SP']", 1, "lge", ""),
        ("tagging trufi", "SS", 25, "tagged", ""),
        ("cine LGE", "SS", 25, "lge", "says 'lge', but it has 25 frames like a cine: taken for lge"),
        ("tagged psir", "", 1, "tagged", "says 'tagged' and 'psir': taken for tagged"),
        ("short axis", "['SS', 'SP']", 25, "unknown", "does not tell the sequence; say it with sequence="),
        ("short axis", "TRSS", 25, "unknown", "does not tell the sequence"),
        ("short axis", "SS", 25, "bssfp", ""),
    ],
)
def test_a_cine_in_steady_state_outweighs_weak_words_and_contradictions_are_told(
    words: str, variant: str, frames: int, sequence: str, remark: str
) -> None:
    guess = sequence_of(header(words, variant), frames)
    assert guess.sequence == sequence
    assert remark in guess.remark
    assert bool(remark) == bool(guess.remark)


def test_the_doubt_is_a_remark_of_the_index_unless_the_user_says_the_sequence(tmp_path: Path) -> None:
    trees.cine(tmp_path / "in" / "p", description="sax late phases")
    (remark,) = index_dicom(tmp_path / "in", tmp_path / "out").remarks
    assert remark.startswith("p_bssfp: its header says 'late', as lge would, but it is a cine in steady")
    said = index_dicom(tmp_path / "in", tmp_path / "out", "lge")
    assert [row.scan for row in said.rows] == ["p_lge"]
    assert said.remarks == ()
