"""Propagation: labels of two frames of a cine become labels of all, and a 2-D network learns from both kinds.

VoxelMorph label propagation for the segmentation of short-axis cine on M&Ms, with the registration of
Balakrishnan 2019 ("VoxelMorph", doi 10.1109/TMI.2019.2897538) and the stationary velocities of Dalca 2019. A
registration learns, without labels or with few, to carry one frame of a patient to another; expert masks of end
diastole (ED) and end systole (ES) are carried to the other frames; a U-Net learns from real and carried masks, and is
to generalise better to scanners that it never saw. What ends as the segmenter is the U-Net alone.

========= ================================================= ==========================================
Symbol    Meaning                                           Here
========= ================================================= ==========================================
m, f      moving and fixed image                            two frames of one cine, `frames.Pair`
v         stationary velocity, at half resolution           `networks.registration.VoxelMorph`
φ = id+u  its integral: f(p) looks like m(p + u(p))         `Registration.displacement`, on f's grid
L_sim     image similarity                                  `image_loss`: local correlation, or MSE
λ         weight of the gradient of v                       `smoothness_weight`
γ         weight of 1 - Dice of carried and drawn masks     `label_weight`
s_f       m's mask carried to f                             `carrying.carry`: moving ED, fixed frame t
========= ================================================= ==========================================

The direction matters: u lives on the fixed grid. The released code registers frame t to ED and applies that field to
the ED mask, which deforms it the wrong way (methods.md 2.1); here the mask's own frame is moving, always. What else
is done differently, and why, stands in docs/methods/propagation.md.
"""

from __future__ import annotations

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError
from crossbeat.methods.propagation.carrying import Carried, FrameRecord, carry, find_sources
from crossbeat.methods.propagation.frames import restrict, shut_labels
from crossbeat.methods.propagation.registrar import Registrar, load_registrar
from crossbeat.methods.propagation.registration import learn
from crossbeat.methods.propagation.segmentation import Segmentation, gather
from crossbeat.methods.propagation.settings import Settings
from crossbeat.methods.recipe import find_domains, provenance
from crossbeat.methods.validation import validation_banks
from crossbeat.segmenter import Segmenter
from crossbeat.training import Run, fit

__all__ = [
    "Carried",
    "FrameRecord",
    "Registrar",
    "Settings",
    "carry",
    "find_sources",
    "learn_registration",
    "load_registrar",
    "restrict",
    "train",
]


def train(cohort: Cohort, settings: Settings, run: Run) -> Segmenter:
    """Learn the registration, carry labels once, learn to segment from real and carried ones."""
    domains = shut_labels(find_domains(cohort, settings, run.seed), settings.labelled_frames)
    network = settings.spec.build()  # first, so that its weights are the same with and without carried labels
    registrar = learn(domains, settings, run) if settings.synthetic_labels else None
    lesson = gather(domains, settings, registrar, run)
    stage = Segmentation(run, settings, network, lesson, validation_banks(domains, settings.preparation))
    if settings.schedule == "plateau" and not stage.watched:
        run.note(
            f"{cohort.name}: no labelled scan of the source validates, so no plateau can be seen: the learning rate "
            f"stays {settings.learning_rate:g}; set `split` of some to validation, or say `schedule: one_cycle`"
        )
    rounds, length = settings.rounds
    chosen = fit(stage, rounds=rounds, steps_per_round=length, select=settings.select)
    seen = {"source": domains.source, "labelled_target": domains.target}
    if registrar is not None and settings.register_target:
        seen["target"] = domains.unlabelled
    origin = provenance("propagation", settings, cohort, run, seen, chosen)
    origin["carried_frames"] = sum(map(len, lesson.records.values()))
    return Segmenter(network, settings.spec, settings.preparation, provenance=origin)


def learn_registration(cohort: Cohort, settings: Settings, run: Run) -> Registrar:
    """The first half of `train` alone: a registration from the cohort's training scans, kept in the run too.

    Where no labelled training scan has two frames it is refused (`CohortError`), whatever `without_cine` says.
    """
    strict = settings.model_copy(update={"without_cine": "refuse"})
    registrar = learn(
        shut_labels(find_domains(cohort, settings, run.seed), settings.labelled_frames), strict, run
    )
    if registrar is None:
        raise CohortError(f"{cohort.name}: no labelled training scan has two frames to register")
    return registrar
