from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.prepare import rows, slices
from crossbeat.prepare.augment import PRESETS
from crossbeat.prepare.slices import SliceBank, _order, build_bank, global_batch, join_banks, training_batch
from crossbeat.prepare.volumes import Preparation

LV, MYO = Structure.LV, Structure.MYO
PREPARATION = Preparation(size=16, spacing_mm=2.0)


def read(row: Row) -> Case:
    """A scan whose voxels tell their frame and slice; frame 1 is unlabelled, slice 2 of frame 0 too."""
    frames = 2 if row.sequence == "bssfp" else 1
    image = np.zeros((frames, 4, 20, 24), np.float32)
    image += np.arange(20, dtype=np.float32)[:, None]
    labels = np.full(image.shape, UNKNOWN, np.uint8)
    labels[0] = 0
    labels[0, :, 8:12, 8:12] = LV
    labels[0, 2] = UNKNOWN
    drawn = (frozenset({LV, MYO}), frozenset())[:frames]
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    affine[2, 3] = 4.0 if row.sequence == "lge" else 0.0
    return Case(row.scan, row.subject, image, affine, Domain(row.sequence), labels, drawn)


def bank_of(*, annotated_only: bool = False) -> SliceBank:
    rows = [Row(s, f"{s}_{q}", q, "x") for s in ("a", "b") for q in ("bssfp", "lge")]
    return build_bank(Cohort(tuple(rows), read), PREPARATION, annotated_only=annotated_only)


def test_every_slice_is_there_in_order_and_knows_where_it_comes_from() -> None:
    bank = bank_of()
    assert len(bank) == 2 * (2 * 4 + 4)
    assert [(s.frame, s.z, s.z_mm) for s in bank.table[:5]] == [
        (0, 0, 0.0),
        (0, 1, 8.0),
        (0, 2, 16.0),
        (0, 3, 24.0),
        (1, 0, 0.0),
    ]
    assert bank.volumes()["a_lge", 0].tolist() == [8, 9, 10, 11]
    assert list(bank.volumes())[:3] == [("a_bssfp", 0), ("a_bssfp", 1), ("a_lge", 0)]


def test_what_nobody_looked_at_is_unknown_and_left_out_on_request() -> None:
    bank = bank_of()
    assert bank.drawn[0].tolist() == [True, True, True, False]  # background, LV and MYO; no RV
    assert not bank.drawn[2].any()
    assert not bank.drawn[bank.volumes()["a_bssfp", 1]].any()
    assert len(bank.annotated()) == len(bank_of(annotated_only=True)) == 4 * 3


def test_the_nearest_slice_is_found_by_position_in_the_patient() -> None:
    bank = bank_of()
    same_subject = lambda s: s.subject == "b" and s.sequence == "lge"  # noqa: E731
    found = bank.nearest(13.0, 4.0, same_subject)
    assert found is not None
    assert bank.table[found].z_mm == 12.0
    assert bank.nearest(40.0, 4.0, same_subject) is None


def test_pairs_join_the_same_slice_of_two_frames() -> None:
    assert bank_of().pairs([("a_bssfp", 0, 1)]).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert bank_of().pairs([("a_lge", 0, 1)]).shape == (0, 2)


def test_each_pass_uses_every_slice_once_in_an_order_of_its_own() -> None:
    seen = torch.cat([global_batch(7, step, 12, 8) for step in range(6)])  # 48 = 4 passes
    passes = [p.tolist() for p in seen.reshape(4, 12)]
    assert all(sorted(p) == list(range(12)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    late = global_batch(7, 1000, 12, 8)
    for step in range(5):
        global_batch(3, step, 12, 8)
    assert torch.equal(late, global_batch(7, 1000, 12, 8))
    assert not torch.equal(late, global_batch(8, 1000, 12, 8))


def test_the_order_is_drawn_on_the_cpu_whatever_device_is_the_default() -> None:
    with torch.device("meta"):  # nothing else in the tests asks for this seed first
        _order(990_017, 0, 12)
    assert sorted(_order(990_017, 0, 12).tolist()) == list(range(12))


def test_two_devices_together_see_what_one_sees() -> None:
    bank = bank_of(annotated_only=True)
    arguments = {"bank": bank, "batch_size": 8, "augmentation": PRESETS["standard"], "seed": 5, "step": 3}
    whole = training_batch(**arguments)
    halves = [training_batch(**arguments, share=lambda i, r=r: i[r::2]) for r in range(2)]
    for r, half in enumerate(halves):
        torch.testing.assert_close(half.image, whole.image[r::2])
        assert torch.equal(half.labels, whole.labels[r::2])
        assert torch.equal(half.drawn, whole.drawn[r::2])


def test_candidates_restrict_what_is_drawn() -> None:
    bank = bank_of()
    wanted = bank.find(lambda s: s.sequence == "lge" and s.subject == "a")
    batch = training_batch(bank, 64, PRESETS["none"], seed=0, step=0, candidates=wanted)
    counts = Counter(batch.drawn.any(dim=1).tolist())
    assert counts == {True: 48, False: 16}  # one of its four slices is unannotated


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(CohortError, match="no annotated slice among 0 scans"):
        build_bank(Cohort((), read, "empty"), PREPARATION, annotated_only=True)


def test_unknown_pixels_of_an_annotated_slice_teach_nothing() -> None:
    def half_known(row: Row) -> Case:
        case = read(row)
        labels = case.labels.copy()
        labels[0, 0, 10:] = UNKNOWN
        return replace(case, labels=labels)

    bank = build_bank(Cohort((Row("a", "a_lge", "lge", "x"),), half_known), PREPARATION, annotated_only=True)
    unknown = bank.labels[0] == UNKNOWN
    assert 0.3 < unknown.float().mean() < 0.7
    logits = torch.randn(1, 4, *bank.labels.shape[1:], requires_grad=True)
    how = {"cross_entropy_weight": 0.5, "dice_weight": 0.5, "include_background": False, "smooth": 1.0}
    loss = segmentation_loss(logits, bank.labels[:1], bank.drawn[:1], **how)
    loss.backward()
    assert not logits.grad[0, :, unknown].any()
    assert logits.grad[0, :, ~unknown].any()


def test_leaving_out_what_nobody_looked_at_changes_nothing_else() -> None:
    everything, some = bank_of(), bank_of(annotated_only=True)
    kept = everything.annotated()
    assert torch.equal(some.images, everything.images[kept])
    assert torch.equal(some.labels, everything.labels[kept])
    assert torch.equal(some.drawn, everything.drawn[kept])
    assert list(some.table) == [everything.table[i] for i in kept.tolist()]


def test_a_bank_in_a_mapped_file_gives_the_batches_of_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No speed option may change what is learnt from."""
    in_memory = bank_of()
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    mapped = bank_of()
    joined = join_banks([mapped, mapped])
    assert len(joined) == 2 * len(in_memory)
    assert joined.table == in_memory.table * 2
    few = mapped.only(torch.tensor([3, 0]))
    assert few.table == (in_memory.table[3], in_memory.table[0])
    assert torch.equal(few.images, in_memory.images[[3, 0]])
    for step in range(3):
        one, other = (
            training_batch(bank, 4, PRESETS["standard"], seed=1, step=step) for bank in (in_memory, mapped)
        )
        for part in ("image", "labels", "drawn"):
            assert torch.equal(getattr(one, part), getattr(other, part))


def test_other_images_are_made_some_at_a_time() -> None:
    bank = bank_of()
    sizes: list[int] = []

    def change(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return (images + 1).half()

    changed = bank.with_images(change, at_once=4)
    assert torch.equal(changed.images, (bank.images + 1).half())
    assert sum(sizes) == len(bank)
    assert max(sizes) == 4
    assert changed.labels is bank.labels


def test_a_bank_that_a_device_has_no_room_for_stays_and_its_batches_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "_has_room", lambda *_: False)
    bank = bank_of().to("meta")
    assert bank.images.device.type == "cpu"
    batch = bank.batch(torch.tensor([0, 1]))
    assert {part.device.type for part in (batch.image, batch.labels, batch.drawn)} == {"meta"}


def test_a_gpu_is_filled_to_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800, 10**9))
    cuda = torch.device("cuda")
    assert slices._has_room(cuda, torch.zeros(100))
    assert not slices._has_room(cuda, torch.zeros(100), torch.zeros(1, dtype=torch.uint8))
    assert slices._has_room(torch.device("cpu"), torch.zeros(10**4))
