import numpy as np
import pytest
import torch

from crossbeat.case import Case, Domain
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.prepare import volumes
from crossbeat.prepare.volumes import (
    Preparation,
    Window,
    crop,
    heart_centre,
    label_slices_of,
    normalise,
    pad,
    slices_of,
    window_of,
)


def case_with(
    image: np.ndarray, labels: np.ndarray | None, spacing_yx: tuple[float, float] = (2.0, 1.0)
) -> Case:
    drawn = () if labels is None else (frozenset(Structure) - {Structure.BACKGROUND},) * len(image)
    return Case(
        "p", "p", image, np.diag([spacing_yx[1], spacing_yx[0], 8.0, 1.0]), Domain("lge"), labels, drawn
    )


def blob_case(spacing_yx: tuple[float, float] = (2.0, 1.0)) -> Case:
    """A smooth bright ellipse that is round in mm, its middle off the image's, on 60 x 140 pixels."""
    y, x = np.mgrid[:60, :140]
    distance_mm = np.hypot((y - 24.0) * spacing_yx[0], (x - 80.0) * spacing_yx[1])
    image = np.exp(-((distance_mm / 20) ** 2)).astype(np.float32)[None, None].repeat(3, axis=1)
    labels = np.where(distance_mm < 10, 1, np.where(distance_mm < 16, 2, 0)).astype(np.uint8)
    return case_with(image, labels[None, None].repeat(3, axis=1), spacing_yx)


def test_a_window_on_the_scans_own_grid_copies_and_pastes_exactly() -> None:
    image = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    window = Window((9, 7), (1.5, 1.5), (4.0, 3.0), size=5, spacing_mm=1.5)
    cut = window.cut(image)
    torch.testing.assert_close(cut, image[:, :, 2:7, 1:6])
    back = window.paste(cut)
    torch.testing.assert_close(back[:, :, 2:7, 1:6], image[:, :, 2:7, 1:6])
    assert back.sum() == pytest.approx(float(cut.sum()), rel=1e-6)


def test_a_ramp_is_sampled_at_the_right_millimetres() -> None:
    columns = torch.arange(40.0).expand(1, 1, 30, 40)  # value = x index, 0.8 mm a pixel
    window = Window((30, 40), (1.6, 0.8), (14.5, 19.5), size=9, spacing_mm=1.0)
    expected = 19.5 + (torch.arange(9) - 4) * 1.0 / 0.8
    found = window.cut(columns)[0, 0, 4]  # the widened triangle may pull a sample by a tenth of a pixel
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    torch.testing.assert_close(found.mean(), expected.mean(), atol=0.01, rtol=0)


def test_outside_the_scan_there_is_nothing() -> None:
    window = Window((10, 10), (1.0, 1.0), (0.0, 0.0), size=8, spacing_mm=1.0)
    cut = window.cut(torch.ones(1, 1, 10, 10))
    rows, columns = window.inside
    assert (rows, columns) == (slice(3, 8), slice(3, 8)) or (rows, columns) == (slice(4, 8), slice(4, 8))
    assert float(cut.sum()) == (rows.stop - rows.start) * (columns.stop - columns.start)


def test_the_crop_is_centred_on_the_labelled_heart() -> None:
    case = blob_case()
    assert heart_centre(case) == (24.0, 80.0)
    window = window_of(case, Preparation(size=32, spacing_mm=1.0))
    labels = window.cut_labels(label_slices_of(case))
    found = torch.nonzero(labels[0] == 1).float().mean(dim=0)
    torch.testing.assert_close(found, torch.full((2,), (window.size - 1) / 2), atol=0.3, rtol=0)


def test_resampling_keeps_areas_in_square_millimetres() -> None:
    case = blob_case()
    window = window_of(case, Preparation(size=64, spacing_mm=0.75))
    labels = window.cut_labels(label_slices_of(case))[0]
    for value in (1, 2):
        area_mm2 = float((labels == value).sum()) * 0.75**2
        assert area_mm2 == pytest.approx(float((case.labels[0, 0] == value).sum()) * 2.0, rel=0.05)


def test_labels_there_and_back_agree_except_at_their_rim() -> None:
    case = blob_case(spacing_yx=(1.3, 1.3))
    window = window_of(case, Preparation(size=64, spacing_mm=1.0))
    there = window.cut_labels(label_slices_of(case))
    shares = torch.nn.functional.one_hot(there.long(), 3).permute(0, 3, 1, 2).float()
    back = window.paste(shares)[:, 1:]
    back = torch.cat([1 - back.sum(dim=1, keepdim=True), back], dim=1).argmax(dim=1)
    truth = label_slices_of(case)
    for value in (1, 2):
        ours, theirs = back == value, truth == value
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.97


def test_labels_keep_unknown_and_never_invent_values() -> None:
    labels = torch.full((1, 12, 12), UNKNOWN, dtype=torch.uint8)
    labels[:, :6] = 3
    window = Window((12, 12), (1.0, 1.0), (5.5, 5.5), size=16, spacing_mm=0.75)  # all inside the scan
    cut = window.cut_labels(labels)
    assert set(cut.unique().tolist()) == {3, UNKNOWN}
    assert (cut[0, :8] == 3).all()
    assert (cut[0, 8:] == UNKNOWN).all()


def test_the_three_scales_and_their_constant_case() -> None:
    case = blob_case()
    window = window_of(case, Preparation(size=48))
    fields = window.cut(slices_of(case.image * 300 + 7))
    zscore = normalise(fields, window, Preparation(size=48))
    rows, columns = window.inside
    assert zscore[:, :, rows, columns].mean() == pytest.approx(0, abs=1e-4)
    assert zscore[:, :, rows, columns].std() == pytest.approx(1, abs=1e-3)
    unit = normalise(fields, window, Preparation(size=48, scale="unit"))
    assert (float(unit.min()), float(unit.max())) == (0.0, 1.0)
    symmetric = normalise(fields, window, Preparation(size=48, scale="symmetric"))
    torch.testing.assert_close(symmetric, 2 * unit - 1)


@pytest.mark.parametrize("value", [1000.1, 1e-12, 5.0, 0.0, -32768.3])
@pytest.mark.parametrize("per", ["slice", "volume"])
def test_a_constant_slice_shows_nothing_whatever_its_value(value: float, per: str) -> None:
    case = case_with(np.full((1, 2, 60, 140), value, np.float32), None, (1.7, 1.3))
    for scale, expected in (("zscore", 0.0), ("unit", 0.0), ("symmetric", -1.0)):
        preparation = Preparation(size=48, spacing_mm=1.1, scale=scale, per=per)
        window = window_of(case, preparation)
        found = normalise(window.cut(slices_of(case.image)), window, preparation)
        assert (found == expected).all()


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6])
def test_a_faint_pattern_on_a_bright_slice_is_no_constant(unit: float) -> None:
    pattern = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    window = Window((32, 32), (1.0, 1.0), (15.5, 15.5), size=32, spacing_mm=1.0)
    found = normalise((65535 + 8 * pattern) * unit, window, Preparation(size=32, scale="unit"))
    assert found.std() == pytest.approx(float(pattern.std()), rel=0.03)


def test_scanner_units_do_not_matter() -> None:
    case = blob_case()
    window = window_of(case, Preparation(size=48))
    fields = window.cut(slices_of(case.image))
    torch.testing.assert_close(
        normalise(fields, window, Preparation(size=48)),
        normalise(fields * 1234 + 99, window, Preparation(size=48)),
        atol=2e-3,
        rtol=0,
    )


def test_per_volume_keeps_the_slices_apart_and_per_slice_does_not() -> None:
    fields = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    fields[1] += 10
    window = Window((32, 32), (1.0, 1.0), (15.5, 15.5), size=32, spacing_mm=1.0)
    by_slice = normalise(fields, window, Preparation(size=32))
    by_volume = normalise(fields, window, Preparation(size=32, per="volume"))
    assert abs(float(by_slice[0].mean() - by_slice[1].mean())) < 1e-4
    assert float(by_volume[1].mean() - by_volume[0].mean()) > 1.5


def test_crop_and_pad_undo_each_other() -> None:
    field = torch.rand(1, 2, 9, 9)
    assert torch.equal(crop(pad(crop(field, 4), 9), 4), crop(field, 4))


@pytest.mark.parametrize("ends", [(0.5, 99.5), (0.0, 100.0), (2.5, 60.0)])
@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (4, 101), (12, 36_864), (1, 2_000_001)])
def test_percentiles_are_torchs_own(shape: tuple[int, int], ends: tuple[float, float]) -> None:
    values = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    at = torch.tensor(ends) / 100
    low, high = volumes._quantiles(values, at)
    seen = values[:, :: max(1, shape[1] // 1_000_000)]
    torch.testing.assert_close(torch.stack([low, high]), torch.quantile(seen, at, dim=1), atol=0, rtol=0)
