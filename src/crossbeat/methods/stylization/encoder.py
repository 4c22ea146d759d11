"""Encoder: the eyes of a stylizer, VGG-19 to relu4_1, from any of three sources; frozen, saved and loaded.

A user's weight file, an encoder learnt on the cohort itself without labels (`cmr`, in autoencoding.py), or random
weights: behind `find_encoder` they are the same thing, a network whose filters are 1 on the mean (methods.md 3.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.methods.keeping import fetch, keep
from crossbeat.methods.sharing import find_or_make
from crossbeat.methods.stylization.autoencoding import learn_vgg
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.sharing import decided_by
from crossbeat.methods.stylization.styles import Material
from crossbeat.networks.vgg import WIDTHS, Decoder, Vgg, load_vgg, normalise_activations, read_levelled
from crossbeat.prepare.slices import SliceBank
from crossbeat.prepare.volumes import Preparation, crop
from crossbeat.training import Run, seed_torch

LEVELLED_OVER: Final = 256
"""Slices at most over which activations are normalised, evenly spread over all: more change no mean that matters."""

DECODER: Final = "decoder."
"""Before the names of a decoder's weights, beside those of the network."""

Source = Literal["cmr", "random", "file"]


@dataclass
class Encoder:
    """VGG-19 to relu4_1, frozen and activation-normalised, and where it comes from."""

    vgg: Vgg
    source: Source
    preparation: Preparation
    """Of the slices over which its activations were normalised."""
    psnr_db: float | None = None
    """Of held-out slices that a decoder gave back from its relu4_1, peak 1; None where no decoder was trained."""
    silent: tuple[int, ...] = ()
    """How many filters of each of the nine layers (hardly) fire."""
    subjects: tuple[str, ...] = ()
    """Whose images it has seen."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    decoder: Decoder | None = None
    """What gives images back from its relu4_1; None where none was trained."""

    def __post_init__(self) -> None:
        self.vgg.eval().requires_grad_(False)
        if self.decoder is not None:
            self.decoder.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> Encoder:
        """The same encoder, moved to another device."""
        self.vgg.to(device)
        if self.decoder is not None:
            self.decoder.to(device)
        return self

    def told(self) -> dict[str, Any]:
        """What a result that rests on it must say of it."""
        return {"source": self.source, "psnr_db": self.psnr_db, "silent": list(self.silent)}

    def describe(self) -> dict[str, Any]:
        """All but the weights, as plain JSON."""
        return {
            **self.told(),
            "network": self.vgg.arguments,
            "preparation": self.preparation.model_dump(),
            "subjects": list(self.subjects),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: Path) -> None:
        """`weights.safetensors` and `encoder.json` in a folder that appears whole or not at all."""
        keep(folder, "encoder", self.weights(), self.describe())

    def weights(self) -> dict[str, Tensor]:
        """Those of the network by their names, and the decoder's behind `decoder.`."""
        decoder = {} if self.decoder is None else self.decoder.state_dict()
        return {**self.vgg.state_dict(), **{f"{DECODER}{name}": tensor for name, tensor in decoder.items()}}


def load_encoder(folder: Path, device: torch.device | str = "cpu") -> Encoder:
    """Read what `Encoder.save` wrote, in a run `models/encoder`; `RunError` where a piece is missing or broken."""
    return fetch(folder, "encoder", as_encoder).to(device)


def as_encoder(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Encoder:
    """An encoder from what `Encoder.describe` says and its weights."""
    vgg, decoder = Vgg(**described["network"]), None
    vgg.load_state_dict({n: t for n, t in weights.items() if not n.startswith(DECODER)})
    kept = {n.removeprefix(DECODER): t for n, t in weights.items() if n.startswith(DECODER)}
    if kept:
        decoder = Decoder()
        decoder.load_state_dict(kept)
    return Encoder(
        vgg,
        described["source"],
        Preparation(**described["preparation"]),
        described["psnr_db"],
        tuple(described["silent"]),
        tuple(described["subjects"]),
        described["provenance"],
        decoder,
    )


def refuse_unreadable(settings: Settings) -> None:
    """Raise what is wrong with an `encoder` that somebody brings, before any scan is read.

    `SettingsError` where it is neither a word nor a path that exists, or sees other colours than `encoder_channels`;
    `FileError` or `RunError` where it is broken.
    """
    if settings.stylizer == "none" or settings.encoder in ("cmr", "random"):
        return
    path = Path(settings.encoder)
    if not path.exists():
        raise SettingsError(
            f"encoder {settings.encoder}: there is no such file or folder; say cmr, random, the weights of a VGG-19, "
            "or the models/encoder of another run"
        )
    if not path.is_dir():
        load_vgg(path, settings.encoder_channels)
    elif (colours := load_encoder(path).vgg.in_channels) != settings.encoder_channels:
        raise SettingsError(
            f"encoder {path}: takes {colours} colours, and encoder_channels is {settings.encoder_channels}; say "
            f"encoder_channels: {colours}"
        )


def find_encoder(material: Material, cohort: Cohort, settings: Settings, run: Run) -> Encoder:
    """The encoder that the settings ask for, on the run's device, and a copy of it in `models/encoder`.

    A `cmr` encoder that loses too much of held-out images ends the run (`RunError`) unless `encoder_gate: off`.
    One of another run that has seen subjects who are tested here is refused (`CohortError`).
    """
    path = Path(settings.encoder)
    if settings.encoder not in ("cmr", "random") and path.is_dir():
        encoder = load_encoder(path, run.torch_device)
        _refuse_leakage(encoder, material, cohort, path)
        _tell_other_pixels(encoder, settings, run)
    else:
        encoder = find_or_make(
            "encoder",
            [decided_by("encoder", settings.model_dump(mode="json")), cohort.hash()],
            run,
            lambda: _new_encoder(material, cohort, settings, run),
            lambda folder: load_encoder(folder, run.torch_device),
            Encoder.save,
        )
    if run.writes and run.estimates is None:
        encoder.save(run.folder / "models" / "encoder")
    _hold_to_the_gate(encoder, settings, run)
    return encoder


def _new_encoder(material: Material, cohort: Cohort, settings: Settings, run: Run) -> Encoder:
    bank = material.every_slice()
    psnr_db: float | None = None
    decoder: Decoder | None = None
    source: Source = "cmr"
    if settings.encoder == "cmr":
        vgg, decoder, psnr_db = learn_vgg(bank, cohort, settings, run)
    elif settings.encoder == "random":
        seed_torch(run.seed, "random encoder")
        vgg, source = Vgg(), "random"
    else:
        vgg, source = load_vgg(Path(settings.encoder), settings.encoder_channels), "file"
    vgg = vgg.to(run.torch_device)
    silent, scale = normalise_activations(vgg, _spread(bank, LEVELLED_OVER).to(run.torch_device))
    if decoder is not None:
        read_levelled(decoder.to(run.torch_device), scale)
    if source == "random":
        run.note(
            f"encoder random: weights nobody trained, an ablation; {silent[-1]} of {WIDTHS[-1]} channels of relu4_1 "
            "stay silent"
        )
    told = {"method": "stylization", "seed": run.seed, "cohort": cohort.name, "cohort_hash": cohort.hash()}
    told |= {"settings": settings.model_dump(mode="json")}
    subjects = tuple(sorted({place.subject for place in bank.table}))
    about = told | run.surroundings()
    return Encoder(vgg, source, settings.preparation, psnr_db, silent, subjects, about, decoder)


def _spread(bank: SliceBank, count: int) -> Tensor:
    """So many slices of the bank at most, evenly spread, cropped."""
    chosen = torch.linspace(0, len(bank) - 1, min(count, len(bank))).round().long()
    return crop(bank.images[chosen], bank.preparation.size)


def _hold_to_the_gate(encoder: Encoder, settings: Settings, run: Run) -> None:
    reached, wanted = encoder.psnr_db, settings.encoder_psnr_db
    if reached is None or reached >= wanted or run.estimates is not None:
        return
    problem = f"encoder: held-out slices come back with a PSNR of {reached:.1f} dB, below {wanted:g}"
    if settings.encoder_gate:
        raise RunError(
            f"{problem}: its features lose too much of the images to stylise them; raise encoder_steps "
            f"({settings.encoder_steps}), or go on as it is with encoder_gate: off (and encoder: "
            f"{run.folder / 'models' / 'encoder'} in another folder, to learn it only once)"
        )
    run.note(f"{problem} (encoder_gate: off)")


def _refuse_leakage(encoder: Encoder, material: Material, cohort: Cohort, path: Path) -> None:
    both = sorted(set(encoder.subjects) & material.tested)
    if both:
        raise CohortError(
            f"{cohort.name}: {len(both)} subjects are tested and the encoder {path} has seen their images, "
            f"{both[0]!r} first; learn one here (encoder: cmr), or say `transductive: true` if that is meant"
        )


def _tell_other_pixels(encoder: Encoder, settings: Settings, run: Run) -> None:
    if differing := encoder.preparation.differences(settings.preparation):
        run.note(
            f"encoder {settings.encoder}: learnt from slices prepared otherwise ({differing}); its activations are not "
            "1 on the mean here"
        )
