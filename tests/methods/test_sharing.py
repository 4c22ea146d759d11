"""Parts that runs of a study share: one of a kind is made, and what is found is what would be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crossbeat.methods.sharing import find_or_make, fingerprint, fingerprint_of_tensors
from crossbeat.training import Run


def test_what_is_shared_is_of_one_kind_seed_and_precision(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> str:
        made.append(f"{len(made)}")
        return made[-1]

    def save(text: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "text").write_text(text)

    def get(seed: int = 0, kind: str = "a", shared: Path | None = tmp_path / "shared", **other: Any) -> str:
        run = Run(tmp_path / "run", seed=seed, device="cpu", progress=False, shared=shared, **other)
        return find_or_make("part", [kind], run, make, lambda at: (at / "text").read_text(), save)

    assert [get(), get(), get(1), get(1), get()] == ["0", "0", "1", "1", "0"]
    assert get(kind="b") == "2"
    other = "32" if Run(tmp_path, device="cpu").lightning_precision != "32-true" else "bf16"
    assert get(precision=other) == "3"
    assert [get(shared=None), get(shared=None)] == ["4", "5"], "a run by itself makes its own"
    assert get(estimates={}) == "6"
    assert len(list((tmp_path / "shared").iterdir())) == 4


def test_a_fingerprint_is_of_what_is_in_it_not_of_its_order() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_a_fingerprint_of_tensors_is_of_bytes_shapes_and_types() -> None:
    image = torch.arange(6.0).view(2, 3)
    found = fingerprint_of_tensors(image)
    assert (
        found == fingerprint_of_tensors(image.clone()) == fingerprint_of_tensors(image.t().contiguous().t())
    )
    nearly = image.clone()
    nearly[0, 0] = 1e-30
    others = (image.view(3, 2), image.to(torch.bfloat16), image.int(), nearly)
    kinds = {fingerprint_of_tensors(other) for other in others} | {fingerprint_of_tensors(image, image)}
    assert len(kinds) == 5
    assert found not in kinds
    assert fingerprint_of_tensors(torch.zeros(0)) != fingerprint_of_tensors()


def test_who_comes_second_leaves_the_first_ones_part_and_a_full_disk_costs_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run", device="cpu", progress=False, shared=tmp_path / "shared")

    def save(text: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "text").write_text(text)
        if text == "slow":  # another run has put its own there meanwhile
            [name] = [path.name for path in (tmp_path / "shared").iterdir()]
            first = tmp_path / "shared" / name.removeprefix(".").partition(".")[0]
            first.mkdir()
            (first / "text").write_text("first")
        if text == "full":
            raise OSError(28, "No space left on device")

    def get(kind: str, text: str) -> str:
        return find_or_make("part", kind, run, lambda: text, lambda at: (at / "text").read_text(), save)

    assert get("a", "slow") == "slow"
    assert get("a", "other") == "first"
    assert get("b", "full") == "full"
    assert "not left for other runs of this study (No space left on device)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [path.name for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")] == []
