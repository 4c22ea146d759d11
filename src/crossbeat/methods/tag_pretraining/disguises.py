"""What the segmenter learns from: plain source slices, the same made to look like the target, the target's own.

A source image looks tagged by formula (`synthetic.tagging`, drawn anew for every batch), because `crossbeat tag` made
it so beforehand, or because a CycleGAN repainted it, once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods.keeping import fetch, keep
from crossbeat.methods.recipe import Domains, find_domains
from crossbeat.methods.sharing import find_or_make, fingerprint_of_tensors
from crossbeat.methods.tag_pretraining.cyclegan import Translator, learn_translator, load_translator
from crossbeat.methods.tag_pretraining.segmentation import Lesson
from crossbeat.methods.tag_pretraining.settings import REPAINTED, Part, Settings
from crossbeat.methods.validation import validation_banks
from crossbeat.prepare.rows import Rows
from crossbeat.prepare.slices import Batch, SliceBank, batch_generator, build_bank
from crossbeat.prepare.volumes import Preparation, stretch
from crossbeat.synthetic.tagging import Simulation, draw, tag
from crossbeat.training import Estimate, Run
from crossbeat.training.run import peak_memory_mb

TAGS: Final = 11
"""Purpose of the random numbers that tags are drawn from (`prepare.slices.batch_generator`)."""
AT_ONCE: Final = 8
"""Slices, where all are repainted."""
CYCLED: Final = 24
"""Slices that go through a CycleGAN's cycle, to see whether the heart stays where it was."""
FRAMES: Final = 25
"""Of a tagged cine, one imaging pulse each (methods.md 4.4)."""


@dataclass(frozen=True)
class Material:
    """A cohort as this method sees it."""

    domains: Domains
    strategy: str
    lessons: Mapping[Part, Lesson]
    validation: Mapping[Part, Mapping[str, SliceBank]]
    """Of each part: scans of the source, in `tags` as they look then (plain where scans are `simulated`), and of the
    target, which are never disguised."""
    seen: Mapping[str, Cohort]
    """Scans that training looked at, for `provenance`."""
    cycled: tuple[SliceBank, SliceBank] | None = None
    """Some slices of the source as they are, and as they come back from a CycleGAN's cycle.

    They validate; where no source scan does, they train.
    """


@dataclass(frozen=True)
class Tagged:
    """A disguise by formula: other lines for every slice of every batch, as the settings draw them.

    What comes out is on the scale of the target's own images, which are stretched with their lines on; but for what is
    `standardised`, which is as the authors' code leaves it.
    """

    simulation: Simulation
    preparation: Preparation

    def __call__(
        self, batch: Batch, count: int, mine: Int[Tensor, " n"], *, seed: int, step: int
    ) -> Float[Tensor, "n 1 y x"]:
        """Whole fields, tagged; each at a time of its own after the lines were laid, where they fade."""
        image, here = batch.image[:, 0], batch.image.device
        generator = batch_generator(seed, step, TAGS)
        tags = draw(self.simulation, count, generator).take(mine)
        pulses = torch.randint(FRAMES, (count,), generator=generator)[mine].float()
        noise = None
        if self.simulation.noise_sd[1] > 0:
            drawn = torch.randn(count, 2, *image.shape[1:], generator=generator)
            noise = drawn[mine].to(here, non_blocking=True)
        seen = tag(
            image,
            tags.to(here),
            self.simulation,
            pixel=(self.preparation.spacing_mm, self.preparation.spacing_mm),
            peak=torch.ones(len(image), device=here),
            labels=batch.labels,
            pulses=pulses.to(here, non_blocking=True),
            noise=noise,
        )
        return seen[:, None] if self.simulation.standardised else stretch(seen[:, None], self.preparation)


def gather(cohort: Cohort, settings: Settings, run: Run) -> Material:
    """Read the scans, learn the CycleGAN where it is asked for, and make every part's lesson."""
    simulated = _simulated(cohort, settings)
    made = {row.scan for row in cohort.where(**settings.simulated)} if settings.simulated else set()
    real = cohort.only(lambda row: row.scan not in made)
    domains = find_domains(real, settings, run.seed)
    strategy = find_strategy(real, settings)
    _refuse_vain(strategy, settings)
    _refuse_before_reading(real, domains, strategy, settings, run)
    lessons: dict[Part, Lesson] = {}
    seen = {"source": domains.source, "labelled_target": domains.target}
    parts = settings.parts
    plain_validation = validation_banks(domains, settings.preparation)
    validation: dict[Part, dict[str, SliceBank]] = {part: dict(plain_validation) for part in parts}
    cycled: tuple[SliceBank, SliceBank] | None = None
    if "cine" in parts or "tags" in parts:
        _refuse_no_source(domains.source, settings)
        plain = _read(domains.source, settings, run, "reading the source")
        lessons["cine"] = Lesson(plain, learnt=settings.learnt)
    if "tags" in parts and made:
        _refuse_tested(simulated, cohort, "are simulated", settings)
        seen["simulated"] = simulated
        lessons["tags"] = Lesson(
            _read(simulated, settings, run, "reading tagged scans"), learnt=settings.learnt
        )
    elif "tags" in parts and strategy == "physics":
        tagged = Tagged(settings.simulation, settings.preparation)
        lessons["tags"] = Lesson(plain, tagged, settings.learnt)
        if "source" in plain_validation:
            validation["tags"]["source"] = tagged_once(plain_validation["source"], tagged, run.seed)
    elif "tags" in parts:
        if settings.translator:
            translator = _known_translator(Path(settings.translator), real, settings, run)
        else:
            cine = _cine(real, domains, settings, run)
            seen |= {"translated_from": cine, "target": domains.unlabelled}
            translator = _new_translator(cine, domains, settings, run)
        training, validating = REPAINTED
        lessons["tags"] = Lesson(repainted(plain, translator, run, training), learnt=settings.learnt)
        if "source" in plain_validation:
            found = repainted(plain_validation["source"], translator, run, validating)
            validation["tags"]["source"] = found
        cycled = there_and_back(plain_validation.get("source", plain), translator, run)
    if "target" in parts:
        _remark_on_few(real, domains, settings, run)
        lessons["target"] = Lesson(
            _read(domains.target, settings, run, "reading labelled target scans"), learnt=settings.learnt
        )
    return Material(domains, strategy, lessons, validation, seen, cycled)


def find_strategy(cohort: Cohort, settings: Settings) -> str:
    """The strategy that the settings name; else physics where every target scan is tagged, and cyclegan elsewhere."""
    if settings.strategy is not None:
        return settings.strategy
    target = cohort.where(**settings.target) if settings.target else cohort.only(lambda row: False)
    tagged = len(target) > 0 and all(row.sequence == "tagged" for row in target)
    return "physics" if tagged or settings.simulated else "cyclegan"


def tagged_once(bank: SliceBank, tagged: Tagged, seed: int) -> SliceBank:
    """The bank with lines laid once, other ones on every slice: the same images whenever they are measured on."""
    chunks = []
    for first in range(0, len(bank), AT_ONCE):
        batch = bank.batch(torch.arange(first, min(first + AT_ONCE, len(bank))))
        mine = torch.arange(len(batch.image))
        chunks.append(tagged(batch, len(mine), mine, seed=seed, step=-1 - first))
    return replace(bank, images=torch.cat(chunks))


def repainted(bank: SliceBank, translator: Translator, run: Run, what: str) -> SliceBank:
    """The bank's images as the translator repaints them, whole fields; labels and places stay.

    Runs of a study that would repaint the same images do it once. In a dry run a few stand for all: their time is
    told, and the images stay as they are.
    """
    if run.estimates is not None:
        run.estimates[f"repainting {what}"] = _cost_of_repainting(bank, translator, run)
        return bank
    networks = (*translator.onward.state_dict().values(), *translator.back.state_dict().values())
    images = find_or_make(
        "repainted",
        fingerprint_of_tensors(bank.images, *networks),
        run,
        lambda: _repaint(bank, translator, run, what),
        lambda folder: fetch(folder, "images", lambda _, kept: kept["images"]),
        lambda images, folder: keep(folder, "images", {"images": images}, {}),
    )
    return replace(bank, images=images)


def there_and_back(bank: SliceBank, translator: Translator, run: Run) -> tuple[SliceBank, SliceBank] | None:
    """A few slices, evenly spread over the bank, and the same after the CycleGAN's cycle; None in a dry run."""
    if run.estimates is not None:
        return None
    few = bank.only(torch.linspace(0, len(bank) - 1, min(CYCLED, len(bank))).round().long())

    def cycle(images: Tensor) -> Tensor:
        return translator.translate_back(translator.translate(images.to(run.torch_device)))

    return few, few.with_images(cycle, at_once=AT_ONCE)


def _repaint(bank: SliceBank, translator: Translator, run: Run, what: str) -> Float[Tensor, "n 1 y x"]:
    made = Rows()
    with run.bar(f"repainting {what}", len(bank)) as step:
        for images in torch.split(bank.images, AT_ONCE):
            made.append(translator.translate(images.to(run.torch_device)).cpu())
            for _ in images:
                step()
    return made.finish()


def _cost_of_repainting(bank: SliceBank, translator: Translator, run: Run) -> Estimate:
    began = time.perf_counter()
    translator.translate(bank.images[:AT_ONCE].to(run.torch_device)).cpu()
    seconds = (time.perf_counter() - began) * len(bank) / min(AT_ONCE, len(bank))
    peaks = peak_memory_mb(run.accelerator)
    memory_mb = peaks.get("peak_cuda_memory_mb", peaks["peak_memory_mb"])
    return Estimate(len(bank), 0, seconds, memory_mb)


def _new_translator(cine: Cohort, domains: Domains, settings: Settings, run: Run) -> Translator:
    """One that learns here from the images of both sides."""
    told = {"method": "tag_pretraining", "seed": run.seed, "settings": settings.model_dump(mode="json")}
    told |= {"subjects": sorted({*cine.subjects, *domains.unlabelled.subjects})}
    source = _read(cine, settings, run, "reading cine", annotated=False)
    target = _read(domains.unlabelled, settings, run, "reading target images", annotated=False)
    translator = find_or_make(
        "translator",
        [settings.cyclegan_decided_by, cine.hash(), domains.unlabelled.hash()],
        run,
        lambda: learn_translator(source, target, settings.cyclegan, run, told | run.surroundings()),
        lambda folder: load_translator(folder, run.torch_device),
        Translator.save,
    )
    if run.writes and run.estimates is None:
        translator.save(run.folder / "models" / "translator")
    return translator.to(run.torch_device)


def _known_translator(path: Path, cohort: Cohort, settings: Settings, run: Run) -> Translator:
    """One of another run, if it has seen nobody who is tested and learnt from slices like these."""
    translator = load_translator(path, run.torch_device)
    if "subjects" not in translator.provenance:
        run.note(
            f"translator {path}: does not say whose images it has learnt from, so nothing tells whether tested "
            "subjects are among them"
        )
    both = sorted(set(translator.provenance.get("subjects", [])) & _tested(cohort))
    if both and not settings.transductive:
        raise CohortError(
            f"{cohort.name}: {len(both)} subjects are tested and the translator {path} has seen their images, "
            f"{both[0]!r} first; learn one here, or say `transductive: true` if that is meant"
        )
    if differing := translator.preparation.differences(settings.preparation):
        raise SettingsError(
            f"translator {path}: learnt from slices prepared otherwise ({differing}); say the same here, or learn one "
            "of your own"
        )
    if run.writes and run.estimates is None:
        translator.save(run.folder / "models" / "translator")
    return translator


def _cine(cohort: Cohort, domains: Domains, settings: Settings, run: Run) -> Cohort:
    """Scans whose images are the CycleGAN's cine side, without labels (methods.md 4.5)."""
    trains = cohort.only(lambda row: row.split in ("train", ""))
    if settings.translate_from:
        found = trains.where(**settings.translate_from)
        if not len(found):
            raise CohortError(
                f"{cohort.name}: no training scan is translate_from {settings.translate_from}; set `split` of some to "
                "train, or take translate_from out"
            )
        _refuse_tested(found, cohort, "show cine to the CycleGAN", settings)
        both = sorted(set(found.subjects) & set(domains.source.subjects))
        if both:
            run.note(
                f"{cohort.name}: {len(both)} subjects of translate_from are also labelled source, {both[0]!r} first; "
                "the paper keeps the two apart"
            )
    else:
        target = {row.scan for row in cohort.where(**settings.target)} if settings.target else set()
        kind = trains.where(**settings.source) if settings.source else trains
        tested = set() if settings.transductive else _tested(cohort)
        found = kind.only(lambda row: not row.labels and row.scan not in target and row.subject not in tested)
    if not len(found):
        run.note(
            f"{cohort.name}: no unlabelled source scan trains, so the CycleGAN learns from the images of the labelled "
            "ones; the paper keeps the two apart"
        )
        found = domains.source
    return found.without_labels()


def _simulated(cohort: Cohort, settings: Settings) -> Cohort:
    if not settings.simulated:
        return cohort.only(lambda row: False)
    try:
        named = cohort.where(**settings.simulated)
    except CohortError as error:  # a column that `crossbeat tag --suffix` has not made yet
        raise CohortError(
            f"{error}; `simulated` names scans that `crossbeat tag --with-originals --suffix NAME` adds to the cohort"
        ) from None
    found = named.only(lambda row: row.split in ("train", "")).labelled()
    if not len(found):
        raise CohortError(
            f"{cohort.name}: no labelled training scan is simulated {settings.simulated}; make some with "
            "`crossbeat tag` and index them beside the others, or take `simulated` out to draw tags here"
        )
    return found


def _refuse_vain(strategy: str, settings: Settings) -> None:
    """What a CycleGAN alone would use, where the strategy that nobody named is another."""
    given = "translator" if settings.translator else "translate_from" if settings.translate_from else ""
    if given and strategy != "cyclegan":
        why = "simulated scans are" if settings.simulated else "the target is"
        beside = " and leave simulated out" if settings.simulated else ""
        raise SettingsError(
            f"{given} is for strategy cyclegan, and {why} tagged, so it would be {strategy}; say strategy: cyclegan"
            f"{beside}, or leave {given} out"
        )


def _refuse_before_reading(
    cohort: Cohort, domains: Domains, strategy: str, settings: Settings, run: Run
) -> None:
    """What the rows and settings alone tell of lines and CycleGAN; scans take minutes to read."""
    if "tags" not in settings.parts or settings.simulated:
        return
    if strategy == "physics":
        settings.simulation.check_spacing((settings.spacing_mm, settings.spacing_mm))
    elif not settings.translator:
        if not len(domains.unlabelled):
            raise CohortError(
                f"{cohort.name}: a CycleGAN learns from target images, and no target scan trains; name a `target` of "
                "which some have split train, or say strategy: physics"
            )
        if settings.cyclegan.batch % run.world_size:
            raise SettingsError(
                f"{run.world_size} devices cannot share a CycleGAN's step, which takes {settings.cyclegan.batch} image "
                "of each side; learn it with --devices 1, and name its models/translator as `translator` for the rest"
            )


def _remark_on_few(cohort: Cohort, domains: Domains, settings: Settings, run: Run) -> None:
    """Notes where labelled patients of the target are too few to be split, or to be shared out as asked."""
    learnt, watched = len(domains.target.subjects), len(domains.target_validation.subjects)
    said = ["one patient is little to learn from; label more"] if learnt < 2 else []
    if not watched:
        said.append(
            "nothing says how fine-tuning goes before it is tested; give some the split validation, or say "
            "target_labels: none"
        )
    if said:
        run.note(
            f"{cohort.name}: of the target's labelled patients {learnt} train and {watched} validate: "
            + "; ".join(said)
        )
    share = settings.target_labelled
    if share is not None and share < 1:
        every = settings.model_copy(update={"target_labelled": None})
        of = len(find_domains(cohort, every, run.seed).target.subjects)
        if share * of < 1:
            run.note(
                f"{cohort.name}: target_labelled {share:g} of {of} patients is less than one; one trains, as under "
                f"every share below {1.5 / of:.2g}"
            )


def _refuse_no_source(source: Cohort, settings: Settings) -> None:
    if not len(source):
        raise SettingsError(
            "tag pretraining learns from labelled source scans first, and the recipe leaves none; name a source, or "
            "say strategy: scratch"
        )


def _refuse_tested(scans: Cohort, cohort: Cohort, doing: str, settings: Settings) -> None:
    if settings.transductive:
        return
    both = sorted(set(scans.subjects) & _tested(cohort))
    if both:
        raise CohortError(
            f"{cohort.name}: {len(both)} subjects are tested and also {doing}, {both[0]!r} first; split by subject, or "
            "say `transductive: true` if that is meant"
        )


def _read(scans: Cohort, settings: Settings, run: Run, title: str, *, annotated: bool = True) -> SliceBank:
    with run.bar(title, len(scans)) as step:
        return build_bank(scans, settings.preparation, annotated_only=annotated, progress=step)


def _tested(cohort: Cohort) -> set[str]:
    return {row.subject for row in cohort if row.split == "test"}
