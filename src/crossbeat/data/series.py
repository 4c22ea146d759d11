"""What the words in a DICOM series' header say: vendor, sequence, localiser or long axis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

_VENDORS: Final = {
    "siemens": "Siemens",
    "philips": "Philips",
    "ge ": "GE",
    "ge_": "GE",
    "general electric": "GE",
    "canon": "Canon",
    "toshiba": "Canon",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
}
# Words as vendors and sites write them in SeriesDescription, ProtocolName and SequenceName.
_LOCALISER: Final = re.compile(r"\b(locali[sz]er|scout|survey|loc|plan scan)\b|^locali|scout")
_SHORT_AXIS: Final = re.compile(r"short.?axis|\bsax|sax\b|(?<![a-z])sa(?![a-z])|\bkurz")
_LONG_AXIS: Final = re.compile(
    r"long.?axis|\blax|lax\b|(?<![a-z])la(?![a-z])|[2-5][\s_-]?(ch|chamber|cv)(?![a-z])|lvot|rvot|\bvla\b|\bhla\b"
)


def _words(*patterns: str) -> re.Pattern[str]:
    """Any of them, where no letter stands right before or behind."""
    letter = r"[^\W\d_]"
    return re.compile(rf"(?<!{letter})(?:{'|'.join(patterns)})(?!{letter})")


# "Tag 2" is German for the second day; "tag 8mm" is a tagged scan.
_SURE: Final = {
    "tagged": _words(
        r"(?:grid|line|cine)?tag(?:s|ged|ging)?(?![\s_.-]*\d+(?![\d\s]*mm))", r"gridtag[a-z]*", r"c?spamm"
    ),
    "lge": _words(
        r"lge(?:sax?)?", r"psir[a-z]*", "mde", r"late[\s_-]*(?:gd|gad[a-z]*|enh[a-z]*)",
        r"delay(?:ed)?[\s_-]*(?:gad[a-z]*|enh[a-z]*|hyper[a-z]*)",
    ),
    "t2": _words(r"t2[\s_-]?(?:w|weighted|tse|fse|stir|haste|blade)", "stir", "tirm", r"o?edema[a-z]*"),
}  # fmt: skip
_LIKELY: Final = {
    "tagged": _words("tag", "grid"),
    "lge": _words(
        "late", "delayed", r"viab[a-z]*", r"de[_-](?:cmr|mri?|psir|ir|tfl|flash|sax?|short)", r"ir_?tfl[a-z]*"
    ),
    "t2": _words(r"(?<!\d)t2(?![\s_-]*(?:\*|star))[a-z]*"),
}
_STEADY_STATE: Final = re.compile(r"ssfp|true?fi|fiesta|(?<![a-z])s?b-?(?:tfe|ffe)|tfi2d")
_CINE: Final = re.compile(r"(?<![a-z])cine")


# What export programs call folders inside a patient's, by DICOM PS3.12 or custom.
_INNER: Final = re.compile(r"dicom|dcm|images?|series|scans?|(pa|st|se|im)[_-]?\d+")


@dataclass(frozen=True)
class SeriesHeader:
    """What a series says of itself."""

    folder: Path
    number: int | None
    description: str
    words: str
    """Series description, protocol and sequence name, lower case."""
    image_type: tuple[str, ...]
    vendor: str
    variant: str
    """SequenceVariant, such as SS (steady state)."""
    patient: str
    """PatientID and StudyInstanceUID tell whose images belong together; neither is ever written."""
    study: str

    @property
    def name(self) -> str:
        """How to name the series to a person: number and description."""
        parts = [str(self.number) if self.number is not None else "", self.description]
        return " ".join(p for p in parts if p) or "without number"


def vendor_of(manufacturer: str) -> str:
    """Siemens, Philips, GE, Canon, United Imaging, or the manufacturer as it stands."""
    text = manufacturer.lower() + " "
    return next((name for word, name in _VENDORS.items() if word in text), manufacturer.strip())


def looks_like_localiser(header: SeriesHeader) -> bool:
    """Whether the image type or the words say localiser, scout or survey."""
    return "LOCALIZER" in header.image_type or bool(_LOCALISER.search(header.words))


def looks_long_axis(header: SeriesHeader) -> bool:
    """Whether the words say long axis or 2, 3, 4 chambers, and do not say short axis."""
    return bool(_LONG_AXIS.search(header.words)) and not _SHORT_AXIS.search(header.words)


def names_no_patient(folder: str) -> bool:
    """Whether a folder is called by what it holds, such as CINESAX, LGE or DICOM, or by an export program."""
    name = folder.lower()
    told = any(pattern.search(name) for pattern in (_SHORT_AXIS, _LONG_AXIS, _CINE, _LOCALISER))
    return told or bool(_INNER.fullmatch(name) or _named(_SURE, name) or _named(_LIKELY, name))


class Guess(NamedTuple):
    """The sequence of a series by its header, and what speaks against it or is missing ('' where nothing)."""

    sequence: str
    """bssfp, lge, t2, tagged or unknown."""
    remark: str


def sequence_of(header: SeriesHeader, frames: int) -> Guess:
    """What the words of a series call it; a cine in steady state is bssfp unless they are sure of another."""
    sure, likely = _named(_SURE, header.words), _named(_LIKELY, header.words)
    steady = bool(_STEADY_STATE.search(header.words)) or _says_steady_state(header.variant)
    cine = frames > 1 and steady
    if sure or (likely and not cine):
        return _with_doubts(sure or likely, frames)
    if not cine and not _STEADY_STATE.search(header.words) and not _CINE.search(header.words):
        return Guess("unknown", "its header does not tell the sequence; say it with sequence=…")
    if not likely:
        return Guess("bssfp", "")
    name, word = next(iter(likely.items()))
    return Guess(
        "bssfp",
        f"its header says {word!r}, as {name} would, but it is a cine in steady state: taken for bssfp; "
        "if it is not, say sequence=…",
    )


def _with_doubts(named: dict[str, str], frames: int) -> Guess:
    name, *others = named
    if others:
        said = " and ".join(repr(word) for word in named.values())
        return Guess(name, f"its header says {said}: taken for {name}; if it is not, say sequence=…")
    if frames > 1 and name != "tagged":
        doubt = f"its header says {named[name]!r}, but it has {frames} frames like a cine: taken for {name}"
        return Guess(name, f"{doubt}; if it is not, say sequence=…")
    return Guess(name, "")


def _named(patterns: Mapping[str, re.Pattern[str]], words: str) -> dict[str, str]:
    """The sequences whose pattern occurs, with the word that did."""
    return {name: found[0] for name, pattern in patterns.items() if (found := pattern.search(words))}


def _says_steady_state(variant: str) -> bool:
    """SS without SP: a spoiled gradient echo may be called steady state too (DICOM PS3.3 C.8.3.1)."""
    values = re.findall(r"[A-Z]+", variant)
    return "SS" in values and "SP" not in values
