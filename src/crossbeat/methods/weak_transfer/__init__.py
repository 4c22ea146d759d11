"""Weak transfer: LGE is segmented with no LGE label, or a handful, from bSSFP and T2 masks of the same patients.

Chen, Li, Zhang, Menze 2020, "Adversarial Convolutional Networks with Weak Domain-Transfer for Multi-sequence
Cardiac MR Images Segmentation" (STACOM 2019). A source mask, carried onto a target image of the same patient, is
nearly right: such pseudo masks train beside true ones, with less weight, while a discriminator asks that masks
look drawn. What ends as the segmenter is the small dilated residual U-Net alone.

====== ===================================================== =====================================
Symbol Meaning                                               Here
====== ===================================================== =====================================
G      generator, here the segmenter                         `network`
D      discriminator of (mask, image) pairs                  `discriminator`
x, y   image and true mask                                   samples with `is_true`
y'     pseudo mask, Eq. 1                                    `prepare.correspondence`
β      share of cross-entropy, Eq. 2 and 3 (α in section 3)  `cross_entropy_weight`
λ      share of the true masks' loss, Eq. 4                  `true_weight`
L_ID   in-domain loss, Eq. 2 (also L_IN)                     `stages.transfer_loss`
L_DT   domain-transfer loss, Eq. 3                           `stages.transfer_loss`
L_adv  adversarial loss, Eq. 5                               `losses.adversarial.discriminator_loss`
U, D   U-Net and Dice loss, the paper's baseline             both switched off
A, T   adversary and transfer, added to it                   `adversarial`, `transfer`
====== ===================================================== =====================================

The printed equations have errors; `losses.adversarial` says how each is mended. What else is done differently, and why,
stands in docs/methods/weak_transfer.md.
"""

from __future__ import annotations

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods.recipe import find_domains, provenance
from crossbeat.methods.validation import validation_banks
from crossbeat.methods.weak_transfer.pairs import Pairs, gather
from crossbeat.methods.weak_transfer.settings import Settings
from crossbeat.methods.weak_transfer.stages import Adversarial, Warmup
from crossbeat.segmenter import Segmenter
from crossbeat.training import Run, fit

__all__ = ["Settings", "train"]


def train(cohort: Cohort, settings: Settings, run: Run) -> Segmenter:
    """Warm up on true and pseudo masks, then go on against a discriminator; the segmenter is what is kept."""
    _refuse_shares_without_halves(settings, run)
    domains = find_domains(cohort, settings, run.seed)
    _refuse_what_cannot_transfer(cohort, settings)
    pairs = gather(domains, settings, run)
    _refuse_what_cannot_be_judged(pairs, settings)
    validation = validation_banks(domains, settings.preparation)
    network = settings.spec.build()
    warmup = Warmup(run, settings, network, pairs, validation)
    adversarial = Adversarial(run, settings, network, pairs, validation)
    rounds, length = settings.warmup_rounds
    fit(warmup, rounds=rounds, steps_per_round=length)
    rounds, length = settings.adversarial_rounds
    chosen = fit(adversarial, rounds=rounds, steps_per_round=length, select=settings.select)
    seen = {"source": domains.source, "labelled_target": domains.target}
    if settings.transfer:
        masked = pairs.masked
        seen["target"] = domains.unlabelled.only(lambda row: row.scan in masked)
    origin = provenance("weak_transfer", settings, cohort, run, seen, chosen)
    return Segmenter(network, settings.spec, settings.preparation, provenance=origin)


def _refuse_shares_without_halves(settings: Settings, run: Run) -> None:
    """Devices with unequal parts of true and pseudo masks would weigh samples unequally."""
    pieces = 2 * run.world_size
    n = settings.batch_size
    if settings.transfer and settings.mixing == "half" and n % pieces:
        raise SettingsError(
            f"batch_size {n}: {run.world_size} devices cannot each take as many true as pseudo masks of it; take "
            f"{n + pieces - n % pieces}, or another --devices, or mixing: pooled"
        )


def _refuse_what_cannot_transfer(cohort: Cohort, settings: Settings) -> None:
    """Every value that the recipe names must have scans, and transfer needs a target to go to."""
    for part, wanted in (("source", settings.source), ("target", settings.target)):
        for column, values in wanted.items():
            there = sorted({row.value(column) for row in cohort})
            for value in values:
                if value not in there:
                    raise CohortError(
                        f"{cohort.name}: no scan is {part} {column} {value!r}; there are {', '.join(there)}; "
                        f"index the missing scans, or take it out of the recipe's {part}"
                    )
    if settings.transfer and not settings.target:
        raise CohortError(
            f"{cohort.name}: weak transfer carries masks to a target, and the recipe names none; say for instance "
            "`target: {sequence: lge}`, or `transfer: false`"
        )


def _refuse_what_cannot_be_judged(pairs: Pairs, settings: Settings) -> None:
    """A discriminator must have seen whole hearts drawn."""
    taught = settings.pseudo_pairs != "excluded" and settings.transfer
    drawn = pairs.bank.drawn if taught else pairs.bank.drawn[pairs.true]
    if settings.adversarial and not drawn.all(dim=1).any():
        raise CohortError(
            "no slice to learn from has all of LV, MYO and RV drawn, so a discriminator cannot learn what a drawn "
            "heart looks like; add such scans, or say `adversarial: false`"
        )
