"""Tag pretraining: labelled cine is made to look tagged, a network learns from it, then from few tagged scans.

Dhaene, Loecher, Wilson, Ennis 2023, "Myocardial Segmentation of Tagged Magnetic Resonance Images with Transfer Learning
Using Generative Cine-To-Tagged Dataset Transformation" (Bioengineering 10:166). Tags come from MR physics
(`synthetic.tagging`) or from a CycleGAN that learns from unpaired scans; a segmenter learns from cine, from the cine
that now looks tagged, and last from the target's own labels. What ends as the segmenter is that network alone.

====== ======================================================= ==========================================
Symbol Meaning                                                 Here
====== ======================================================= ==========================================
G, F   generators, cine to tagged and back                     `cyclegan.CycleGanStage`
D_X    discriminators of each side
φ, H   depth inside a structure, and a logistic step, Eq. 1    `losses.boundary.shape_map`
SI     map of a shape, Eq. 2                                   `losses.boundary.shape_map`
L_S    shape-aware loss, Eq. 3                                 `losses.boundary.shape_loss`
γ      its weight, Eq. 4                                       `shape_weight`
η      weight of the VAE's loss, which Eq. 4 has not           `vae_weight`
====== ======================================================= ==========================================

Nothing here is bound to tags but the physics: a CycleGAN makes cine look like any target that has images. Errors of the
printed equations are in methods.md 4.3; what is done differently, and why, stands in docs/methods/tag_pretraining.md.
"""

from __future__ import annotations

import torch
from torch import nn

from crossbeat.cohort import Cohort
from crossbeat.methods.recipe import provenance
from crossbeat.methods.tag_pretraining.disguises import Material, gather
from crossbeat.methods.tag_pretraining.segmentation import Segmentation, narrowed_bank
from crossbeat.methods.tag_pretraining.settings import Settings
from crossbeat.methods.validation import bank_dice
from crossbeat.segmenter import Segmenter
from crossbeat.training import Chosen, Run, fit

__all__ = ["Settings", "train"]


def train(cohort: Cohort, settings: Settings, run: Run) -> Segmenter:
    """Learn to make cine look tagged, learn to segment it, and go on with the target's own labels."""
    network = _network(settings)  # first, so that its weights are the same in every arm
    material = gather(cohort, settings, run)
    chosen = _learn(network, material, settings, run)
    origin = provenance("tag_pretraining", settings, cohort, run, material.seen, chosen)
    origin["strategy"] = material.strategy
    return Segmenter(network, settings.spec, settings.preparation, settings.learnt, provenance=origin)


def _learn(network: nn.Module, material: Material, settings: Settings, run: Run) -> Chosen:
    """One stage after the other on the same network; weights are selected in the last."""
    chosen: Chosen | None = None
    parts = list(settings.parts)
    for part in parts:
        stage = Segmentation(run, settings, network, part, material.lessons[part], material.validation[part])
        rounds, length = settings.rounds(part)
        select = settings.select if part == parts[-1] else "last"
        chosen = fit(stage, rounds=rounds, steps_per_round=length, select=select)
        if part == "cine" and material.cycled is not None:
            _tell_of_the_cycle(network, material, settings, run)
    assert chosen is not None
    return chosen


def _tell_of_the_cycle(network: nn.Module, material: Material, settings: Settings, run: Run) -> None:
    """Say how well a network of cine finds the heart in slices that went through the CycleGAN's cycle (methods.md 4.5).

    A CycleGAN that moves edges, or invents what its discriminator likes, loses here; one that only repaints does not.
    """
    assert material.cycled is not None
    what = "validation" if "source" in material.validation["cine"] else "training"
    network.eval()
    before, after = (
        bank_dice(
            network, narrowed_bank(bank, settings.learnt).to(run.torch_device), settings.spec.in_channels
        )
        for bank in material.cycled
    )
    network.train()
    run.note(
        f"CycleGAN: of {len(material.cycled[0])} {what} slices the network of cine has Dice {before:.3f} as they are "
        f"and {after:.3f} there and back"
    )


def _network(settings: Settings) -> nn.Module:
    network = settings.spec.build(settings.learnt)
    if settings.initialisation == "xavier":
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                torch.nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    return network
