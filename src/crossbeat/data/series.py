"""What the words in a DICOM series' header say: vendor, sequence, localiser or long axis."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
_SEQUENCES: Final = (
    ("tagged", re.compile(r"tag|grid|spamm|cspamm")),
    ("lge", re.compile(r"\blge|lge\b|delay|late.?enh|late.?gad|psir|viab|(?<![a-z])m?de(?![a-z])|ir_?tfl")),
    ("t2", re.compile(r"(?<![a-z0-9])t2(?!\s*\*|star)|stir|edema|oedema")),
    ("bssfp", re.compile(r"cine|ssfp|true?fi|fiesta|b-?tfe|bffe|tfi2d")),
)


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


def sequence_of(header: SeriesHeader, frames: int) -> str:
    """bssfp, lge, t2 or tagged; a cine in steady state is bssfp without words; else 'unknown'."""
    for name, pattern in _SEQUENCES:
        if pattern.search(header.words):
            return name
    return "bssfp" if frames > 1 and "SS" in header.variant else "unknown"
