"""Stylization: labelled bSSFP is restyled as LGE, or as styles nobody has seen, and a segmenter learns from both.

Rahman, Gu 2023, "Stylization-Based Image Segmentation: RAIN and AdaConv for scar tissue assessment in LGE" (paper
002), on ASM (Luo 2020, arXiv 2011.12640) and AdaConv (Chandran 2021). An encoder is learnt or given, then a stylizer
that gives content images the style of others, then a segmenter sees each labelled image plain and stylised. RAIN's
styles have a code ε; a step up the segmentation loss makes a style that is harder than those that were seen. What
ends as the segmenter is the segmentation network alone.

========= ============================================== =============================================
Symbol    Meaning                                        Here
========= ============================================== =============================================
f_c, f_s  relu4_1 of content and style                   `Stylizer.read`
μ, σ      a style's statistics                           `networks.rain.Style`
ψ, ξ      centre and spread of a style's codes           `Stylizer.distribution`
ε         code of a style, ψ + ξ n                       `segmentation.Segmentation.epsilon`
W         AdaConv's descriptor of a style                `Stylizer.code_of`
t         content features in the decoded style          `networks.rain.Stylised.target`
L_c, L_s  content and style loss, Eq. 3 and 4            `learning.StylizerStage`
L_KL,     KL divergence and reconstruction of a style,   `learning.StylizerStage`, `StyleVaeStage`
L_rec     Eq. 5 and 6
L_seg     cross-entropy and soft Jaccard                 `segmentation.loss_of`
L_con     consistency at the bottleneck, weight 2e-3     `losses.style.consistency_loss`
N         uses of a source batch, N - 1 ascents          `epsilon_rounds`
η, r      length of an ascent                            `ascent_rate`, `ascent_step`
========= ============================================== =============================================

Settings 0 to 3 of the paper's Table 1: `stylizer: none`; `pretrain_style: {sequence: t2}`; the defaults;
`style: same_patient`. Errors of the printed equations are in methods.md 3.5; what is done differently, and why, stands
in docs/methods/stylization.md.
"""

from __future__ import annotations

from collections.abc import Callable

from crossbeat.cohort import Cohort
from crossbeat.errors import SettingsError
from crossbeat.methods.recipe import find_domains, provenance
from crossbeat.methods.sharing import find_or_make
from crossbeat.methods.stylization.encoder import Encoder, find_encoder, load_encoder, refuse_unreadable
from crossbeat.methods.stylization.learning import learn_codes, learn_stylizer
from crossbeat.methods.stylization.segmentation import Segmentation
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.sharing import decided_by
from crossbeat.methods.stylization.styles import Material, gather
from crossbeat.methods.stylization.stylizer import Stylizer, load_stylizer
from crossbeat.methods.validation import validation_banks
from crossbeat.segmenter import Segmenter
from crossbeat.training import Run, fit

__all__ = ["Encoder", "Settings", "Stylizer", "load_encoder", "load_stylizer", "train"]


def train(cohort: Cohort, settings: Settings, run: Run) -> Segmenter:
    """Learn or load the encoder, learn the stylizer, then the segmenter on contents plain and stylised."""
    refuse_unreadable(settings)
    _refuse_determinism(settings, run)
    domains = find_domains(cohort, settings, run.seed)
    network = settings.spec.build()  # first, so that its weights are the same in every arm
    material = gather(domains, cohort, settings, run)
    stylizer = _stylizer(material, cohort, settings, run)
    validation = validation_banks(domains, settings.preparation)
    stage = Segmentation(run, settings, network, stylizer, material, validation)
    rounds, length = settings.rounds
    chosen = fit(stage, rounds=rounds, steps_per_round=length, select=settings.select)
    seen = {"source": domains.source, "labelled_target": domains.target}
    for part, bank in (("target", material.styles), ("styles", material.taught)):
        if bank is not None:
            scans = {place.scan for place in bank.table}
            seen[part] = cohort.only(lambda row, scans=scans: row.scan in scans)  # type: ignore[misc]
    origin = provenance("stylization", settings, cohort, run, seen, chosen)
    if stylizer is not None:
        origin["encoder"] = stylizer.encoder.told()
    return Segmenter(network, settings.spec, settings.preparation, provenance=origin)


def _refuse_determinism(settings: Settings, run: Run) -> None:
    """Encoder and decoders mirror images at their borders, whose gradient torch does not sum in one order on CUDA."""
    if run.deterministic and run.accelerator == "cuda" and settings.stylizer != "none":
        raise SettingsError(
            f"deterministic: torch has no deterministic gradient of mirrored borders on CUDA, and stylizer "
            f"{settings.stylizer} needs it; train on a CPU, where runs are equal to the bit, or without --deterministic"
        )


def _stylizer(material: Material, cohort: Cohort, settings: Settings, run: Run) -> Stylizer | None:
    """Learnt or found with its encoder, and left in `models/encoder` and `models/stylizer`; None for setting 0."""
    if settings.stylizer == "none":
        return None

    def found(part: str, make: Callable[[], Stylizer]) -> Stylizer:
        decided = [decided_by(part, settings.model_dump(mode="json")), cohort.hash()]
        return find_or_make(
            part, decided, run, make, lambda folder: load_stylizer(folder, run.torch_device), Stylizer.save
        )

    encoder = find_encoder(material, cohort, settings, run)
    stylizer = found("stylizer", lambda: learn_stylizer(material, encoder, settings, run))
    if settings.style_vae:
        plain = stylizer
        stylizer = found("style_vae", lambda: learn_codes(plain, material, settings, run))
    if run.writes and run.estimates is None:
        stylizer.save(run.folder / "models" / "stylizer")
    return stylizer
