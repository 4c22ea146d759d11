"""How like a true tagged scan is what physics and a CycleGAN make of cine, and does the heart stay where it was.

Draws hearts that no study has seen, one of each group and source scanner, and scans each twice in the very same slice:
as cine, and tagged at the site of dhaene2023. Then it asks of every model of the tagged image, at five times of the
cycle, the structural similarity (SSIM, Wang 2004, by MONAI) to the true one and how much of it is lines; whether the
heart is still where it was, by a segmenter that was trained on tagged scans; and of the CycleGAN's cycle what a
segmenter of cine loses on cine that went there and back. Run from the repository root:
`python docs/results/likeness.py OUT [--seed 0]`, OUT being the folder of a dhaene2023 study with the cells `cyclegan`,
`scratch` and `cine_no_labels` of that seed; it writes likeness.csv, .md and .png into dhaene2023 beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml
from monai.metrics.regression import SSIMMetric
from numpy.typing import NDArray
from pictures import in_few_greys
from study_tables import head, line_of
from torch import Tensor

from crossbeat.case import Case, Domain
from crossbeat.cli.tag_pretraining import PAPER_SPACING_MM
from crossbeat.cohort import Row
from crossbeat.evaluation import score_case
from crossbeat.labels import TRAINED
from crossbeat.methods.stylization.restyling import Content, prepare
from crossbeat.methods.tag_pretraining.cyclegan import Translator, load_translator
from crossbeat.methods.tag_pretraining.disguises import FRAMES, Tagged
from crossbeat.methods.tag_pretraining.settings import Settings
from crossbeat.prepare.volumes import crop, stretch
from crossbeat.report.wording import p_value, signed
from crossbeat.segmenter import Segmenter, load_segmenter
from crossbeat.statistics import bootstrap_interval, holm, wilcoxon
from crossbeat.synthetic.cohort import Scan, Twins, draw_subject, scan_twins
from crossbeat.synthetic.tagging import draw as draw_tags
from crossbeat.synthetic.tagging import tag

HERE: Final = Path(__file__).with_name("dhaene2023")
GROUPS: Final = ("NOR", "DCM", "HCM", "MINF", "RV")
VENDORS: Final = ("a", "b")
SITE_VENDOR: Final = "c"
"""As in studies/dhaene2023.yaml: cine that is labelled comes from a and b, the tagged scans from c."""
HEARTS_SEED: Final = 77
"""The study's hearts are of seed 0."""
TIMES: Final = 5
MODELS: Final = {
    "retaken": "truly tagged once more: other lines, other noise",
    "told": "physics that is told the true lines and the true motion",
    "cyclegan": "CycleGAN",
    "physics": "physics, as training draws it",
    "paper": "physics, the paper's lines",
    "unlined": "physics without lines: the contrast alone",
    "cine": "the cine as it is",
}
JUDGES: Final = {"cine_no_labels": "cine", "scratch": "tagged scans"}
"""Arms whose segmenters are asked, and what they were trained on."""
BAND: Final = (0.8, 1.25)
"""Spatial frequencies that count as lines, in units of one over the true spacing."""
LOWEST: Final = 0.02
"""Cycles a pixel below which all is anatomy."""
Made = dict[str, Tensor]
"""By model: crops (n, 1, y, x) in [0, 1], a frame each."""
Line = tuple[str, int, str, str, str, float]
"""Heart, frame, model, structure, metric and value."""
STRUCTURES: Final = (*(s.name for s in TRAINED), "mean")


def case_of(scan: Scan, name: str, sequence: str) -> Case:
    """A scan of the phantom as crossbeat reads one, labelled in every frame."""
    drawn = (frozenset(TRAINED),) * len(scan.image)
    return Case(name, name, scan.image.astype(np.float32), scan.affine, Domain(sequence), scan.labels, drawn)


def hearts() -> Iterator[tuple[str, Twins, Twins]]:
    """Name, and the twins with the tagged scan taken twice, of ten hearts."""
    for number, (group, vendor) in enumerate((g, v) for g in GROUPS for v in VENDORS):
        heart = draw_subject(HEARTS_SEED, number, group)
        first, again = (
            scan_twins(
                heart, vendor, SITE_VENDOR, frames=TIMES, slices=1, seed=HEARTS_SEED, subject=number, retake=k
            )
            for k in (0, 1)
        )
        yield f"{group}-{vendor}", first, again


def likenesses(cine: Content, translator: Translator, settings: Mapping[str, Settings], number: int) -> Made:
    """What each model that knows nothing of the true lines makes of the cine's crops."""
    size = cine.bank.preparation.size
    made = {"cine": cine.images, "cyclegan": crop(translator.translate(cine.bank.images), size)}
    made["unlined"] = crop(stretch(cine.bank.images.sqrt(), cine.bank.preparation), size)
    everything = cine.bank.batch(torch.arange(len(cine.bank)))
    for name, given in settings.items():
        lines = Tagged(given.simulation, given.preparation)
        made[name] = crop(lines(everything, TIMES, torch.arange(TIMES), seed=HEARTS_SEED, step=number), size)
    return made


def told(twins: Twins, given: Settings) -> NDArray[np.float32]:
    """The cine (t, z, y, x), tagged by formula with the lines that the true scan has, which move as its heart does."""
    cine, grid = twins.cine, twins.tags
    assert cine.displacement_mm is not None
    generator = torch.Generator().manual_seed(HEARTS_SEED)
    pixel = float(np.linalg.norm(cine.affine[:3, 0]))
    image = torch.from_numpy(cine.image[:, 0].astype(np.float32))
    lines = replace(
        draw_tags(given.simulation, 1, generator),
        spacing=torch.tensor([grid.protocol.spacing_mm], dtype=torch.float64),
        across_deg=torch.tensor([grid.across_deg], dtype=torch.float64),
        phase_rad=torch.tensor([grid.phase_rad], dtype=torch.float64),
        flip_deg=torch.tensor([grid.protocol.flip_deg], dtype=torch.float64),
    )
    found = tag(
        image,
        lines.take([0] * TIMES),
        given.simulation,
        pixel=(pixel, pixel),
        peak=torch.full((TIMES,), float(np.percentile(cine.image, 99.5))),
        labels=torch.from_numpy(cine.labels[:, 0]),
        displacement=torch.from_numpy(cine.displacement_mm[:, 1:, 0]),
        pulses=torch.arange(TIMES) * (FRAMES / TIMES),
        noise=torch.randn((TIMES, 2, *image.shape[1:]), generator=generator),
    )
    return np.asarray(found.numpy()[:, None], np.float32)


def ssim(one: Tensor, other: Tensor) -> list[float]:
    """Of each image of a batch, on [0, 1]: a Gaussian window of 11 pixels."""
    return SSIMMetric(spatial_dims=2, data_range=1.0)(one, other)[:, 0].tolist()


def line_share(images: Tensor, spacing_px: float) -> list[float]:
    """Share of each image's energy, but for what is slower than all lines, at frequencies near the lines' own."""
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=False)
    spectrum = torch.fft.fft2((images[:, 0] - images.mean()) * window[:, None] * window).abs().square()
    along = torch.fft.fftfreq(side)
    radius = (along[:, None].square() + along.square()).sqrt()
    near = (radius * spacing_px > BAND[0]) & (radius * spacing_px < BAND[1])
    return (spectrum[:, near].sum(dim=1) / spectrum[:, radius > LOWEST].sum(dim=1)).tolist()


def cycled(content: Content, translator: Translator) -> Case:
    """The cine as it comes back from the CycleGAN's cycle."""
    size = content.bank.preparation.size
    back = translator.translate_back(translator.translate(content.bank.images))
    return replace(content.case, image=content.on_grid(crop(back, size)))


def measure(out: Path, seed: int) -> tuple[pd.DataFrame, dict[str, Made]]:
    """A line a heart, frame and what was measured; and some pictures, a row a heart."""
    cells = {arm: out / "cells" / arm / f"seed-{seed}" for arm in ("cyclegan", *JUDGES)}
    translator = load_translator(cells["cyclegan"] / "models" / "translator")
    judges = {arm: load_segmenter(cells[arm] / "segmenter") for arm in JUDGES}
    trained = Settings.of(yaml.safe_load((cells["cyclegan"] / "settings.yaml").read_text()))
    still = {
        "tag_spacing_mm": PAPER_SPACING_MM,
        "tag_spacing_range": 0.0,
        "tag_angle_range_deg": 0.0,
        "tag_phase": "fixed",
        "tag_fading": False,
    }
    settings = {
        "physics": trained,
        "paper": trained.model_copy(update={**still, "tag_noise_sd": 0.0}),
    }
    lines: list[Line] = []
    shown: dict[str, Made] = {}
    for number, (name, first, again) in enumerate(hearts()):
        cine = case_of(first.cine, name, "bssfp")
        scans = {
            "cine": cine.image,
            "true": first.tagged.image.astype(np.float32),
            "retaken": again.tagged.image.astype(np.float32),
            "told": told(first, trained),
        }
        contents = {
            of: prepare(replace(cine, image=image), translator.preparation) for of, image in scans.items()
        }
        content, wanted = contents["cine"], contents["true"].images
        made = {model: contents[model].images for model in ("retaken", "told")}
        made |= likenesses(content, translator, settings, number)
        spacing_px = first.tags.protocol.spacing_mm / translator.preparation.spacing_mm
        for model, images in {"true": wanted, **made}.items():
            shares = line_share(images, spacing_px)
            lines += [(name, t, model, "", "line_share", value) for t, value in enumerate(shares)]
            if model != "true":
                lines += [(name, t, model, "", "ssim", value) for t, value in enumerate(ssim(images, wanted))]
        back = cycled(content, translator).image
        judged = {("cine_no_labels", "cine"): content.plain(), ("cine_no_labels", "cycled"): back}
        judged |= {
            ("scratch", model): content.on_grid(images) for model, images in {"true": wanted, **made}.items()
        }
        for (judge, model), image in judged.items():
            lines += dices(name, model, content.within(image), judge, judges[judge])
        if name.endswith("a"):
            shown[name] = {"true": wanted, **made}
        print(f"{name} measured", flush=True)
    return pd.DataFrame(lines, columns=["heart", "frame", "model", "structure", "metric", "value"]), shown


def dices(name: str, model: str, case: Case, judge: str, segmenter: Segmenter) -> list[Line]:
    """Of each structure in each frame, and their mean."""
    scores = score_case(Row(name, name, "-", "-"), case, segmenter.predict(case), units=(), per_slice=False)
    return [
        (name, s.frame or 0, model, s.structure, f"dice_{judge}", s.value)
        for s in scores
        if s.metric == "dice" and s.structure in STRUCTURES
    ]


def tables(table: pd.DataFrame) -> list[str]:
    """Means over hearts, frames first; paired differences and p by Wilcoxon, Holm over the rows of a table."""
    likeness = table[table["metric"] == "ssim"].groupby(["model", "heart"])["value"].mean().unstack("model")
    shares = table[table["metric"] == "line_share"]
    fresh, faded = (
        shares[first].groupby(["model", "heart"])["value"].mean().unstack("model")
        for first in (shares["frame"] == 0, shares["frame"] > 0)
    )
    rivals = [model for model in MODELS if model != "cyclegan"]
    p = holm([wilcoxon(likeness["cyclegan"], likeness[model], list(likeness.index)).p for model in rivals])
    corrected = dict(zip(rivals, p, strict=True))
    lines = head(
        (
            "Made of cine by",
            "SSIM",
            "CycleGAN's is higher by",
            "95 % interval",
            "Holm's p",
            "lines, fresh",
            "lines, later",
        )
    )
    for model, what in MODELS.items():
        own, cells = likeness[model], ["–"] * 3
        if model in corrected:
            more = likeness["cyclegan"] - own
            low, high = bootstrap_interval(more, list(more.index))
            cells = [signed(more.mean()), f"{signed(low)} to {signed(high)}", p_value(corrected[model])]
        lines.append(line_of(what, told_of(own), *cells, told_of(fresh[model]), told_of(faded[model])))
    lines.append(
        line_of("the true tagged scan", "1", *["–"] * 3, told_of(fresh["true"]), told_of(faded["true"]))
    )
    for judge, seen in JUDGES.items():
        of = table[table["metric"] == f"dice_{judge}"]
        dice = of.groupby(["model", "structure", "heart"])["value"].mean()
        lines += ["", *head((f"Dice of a segmenter of {seen}, on", *STRUCTURES))]
        for model in dict.fromkeys(of["model"]):
            what = {"true": "the true tagged scan", "cycled": "the cine, there and back", **MODELS}[model]
            lines.append(line_of(what, *(told_of(dice[model, structure]) for structure in STRUCTURES)))
    return lines


def told_of(values: pd.Series[float]) -> str:
    """Mean and SD over hearts."""
    return f"{values.mean():.3f} ± {values.std():.3f}"


def draw(shown: Mapping[str, Made], path: Path) -> None:
    """A row a heart, a column a model, in the second of five times."""
    columns = {"cine": "cine", "true": "truly tagged", "retaken": "tagged again", "told": "told the lines",
               "cyclegan": "CycleGAN",
               "physics": "physics", "paper": "the paper's lines"}  # fmt: skip
    figure, grid = plt.subplots(len(shown), len(columns), figsize=(9.6, 1.45 * len(shown)), squeeze=False)
    for row, (name, images) in zip(grid, shown.items(), strict=True):
        for axes, (model, title) in zip(row, columns.items(), strict=True):
            axes.imshow(images[model][1, 0, 16:112, 16:112], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if axes.get_subplotspec().is_first_row():
                axes.set_title(title, fontsize=10)
        row[0].set_ylabel(name.split("-")[0], fontsize=10)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    in_few_greys(path)


def main() -> None:
    """Measure, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        help="folder of a dhaene2023 study; without it likeness.csv is told again",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    if given.out is not None:
        table, shown = measure(given.out, given.seed)
        table.to_csv(HERE / "likeness.csv", index=False, float_format="%.5g", lineterminator="\n")
        draw(shown, HERE / "likeness.png")
    table = pd.read_csv(HERE / "likeness.csv")
    text = "\n".join(tables(table)) + "\n"
    (HERE / "likeness.md").write_text(f"# Like a true tagged scan?\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
