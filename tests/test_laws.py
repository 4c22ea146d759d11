"""The laws of the house that a machine can hold (house.md sections 3 and 7)."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "crossbeat"
MODULES = sorted(SOURCE.rglob("*.py"))

GROUND = {"errors", "labels", "geometry", "case", "cohort", "splits"}
MAY_IMPORT = {
    "errors": set(),
    "labels": {"errors"},
    "geometry": {"errors"},
    "case": {"errors", "labels", "geometry"},
    "cohort": {"errors", "labels", "geometry", "case"},
    "splits": {"errors", "cohort"},
    "console": {"errors"},
    "devices": {"errors"},
    "data": GROUND,
    "synthetic": GROUND | {"devices"},
    "prepare": GROUND | {"devices"},
    "metrics": {"errors", "labels"},
    "networks": {"errors"},
    "losses": {"errors"},
    "statistics": {"errors"},
    "segmenter": GROUND | {"devices", "prepare", "networks"},
    "training": GROUND | {"devices", "prepare"},
    "methods": GROUND | {"devices", "prepare", "networks", "losses", "segmenter", "training", "synthetic"},
    "prediction": GROUND | {"devices", "segmenter"},
    "export": GROUND | {"prepare", "networks", "segmenter"},
    "evaluation": GROUND | {"metrics"},
    "report": GROUND | {"evaluation", "statistics"},
}
TOP = {"cli", "viewer", "study", "installation"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core", "manager", "dl"}
TORCHVISION_KIN = {"torchvision", "torchaudio", "timm", "lpips", "nnunetv2", "segmentation_models_pytorch"}


def imported(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it; relative imports are refused."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports hide who knows whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def rooms_imported(file: Path) -> set[str]:
    parts = [name.split(".") for name in imported(file) if name.startswith("crossbeat.")]
    return {p[1] for p in parts} - {"__version__"}


def lines_of(function: ast.AST) -> int:
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    return (function.end_lineno or function.lineno) - function.lineno + 1


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_a_module_imports_only_from_its_own_floor_or_below(file: Path) -> None:
    name = room(file)
    if name == "__init__":
        return
    assert name in MAY_IMPORT.keys() | TOP, (
        f"{name} is a new room: give it its place in this table and in house.md"
    )
    known = rooms_imported(file) - {name}
    doors = {"cli", "viewer"} - ({"viewer"} if name == "cli" else set())  # the command opens the viewer
    assert not known & doors, f"{file.name} imports {known & doors}; nobody may"
    if name not in TOP:
        assert not known - MAY_IMPORT[name], f"{name} must not import {sorted(known - MAY_IMPORT[name])}"


def test_no_method_imports_another() -> None:
    from crossbeat.methods import METHODS

    for name in METHODS:
        file = SOURCE / "methods" / f"{name}.py"
        files = [file] if file.exists() else sorted((SOURCE / "methods" / name).rglob("*.py"))
        others = {f"crossbeat.methods.{other}" for other in METHODS if other != name}
        for path in files:
            reached = {n for n in imported(path) if any(n == o or n.startswith(f"{o}.") for o in others)}
            assert not reached, f"{path}: imports {reached}"


def test_a_medical_file_is_opened_in_data_alone() -> None:
    for file in MODULES:
        readers = {name.split(".")[0] for name in imported(file)} & {"nibabel", "pydicom", "SimpleITK"}
        assert not readers or room(file) == "data", f"{file}: opens files with {readers}"


def test_torch_is_never_replaced() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        d for extra in project["optional-dependencies"].values() for d in extra
    ]
    names = {d.split(">")[0].split("=")[0].split("[")[0].strip().lower().replace("-", "_") for d in wanted}
    assert not names & TORCHVISION_KIN
    assert all("<" not in d and "==" not in d for d in wanted), "no upper bounds"
    assert "torch>=2.8" in project["dependencies"]
    for file in MODULES:
        assert not {name.split(".")[0] for name in imported(file)} & TORCHVISION_KIN, file


def test_nothing_is_unpickled() -> None:
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", f"{file}:{node.lineno}"
        assert not {name.split(".")[0] for name in imported(file)} & {"pickle", "dill", "joblib"}, file


def test_modules_have_names_of_the_trade_and_fit_one_sitting() -> None:
    for file in MODULES:
        assert file.stem not in FORBIDDEN_NAMES, file
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 450, (
            f"{file} is too long to read in one sitting"
        )


def test_functions_fit_a_screen() -> None:
    lengths = {}
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lengths[f"{file.relative_to(SOURCE)}:{node.name}"] = lines_of(node)
    long = {name: n for name, n in lengths.items() if n > 60}
    assert not long, f"longer than a screen: {long}"
    ordered = sorted(lengths.values())
    assert ordered[len(ordered) // 2] <= 14


def test_every_public_function_says_what_it_does() -> None:
    silent = []
    for file in MODULES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            silent.append(str(file.relative_to(SOURCE)))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{file.relative_to(SOURCE)}:{node.name}")
    assert not silent, silent


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys, crossbeat.cli, crossbeat.methods\n"
        "heavy = {'torch', 'monai', 'lightning', 'scipy', 'pandas', 'nibabel', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_scans_are_picked_and_scored_without_torch(tmp_path: Path) -> None:
    """It would take longer to load than small cohorts to score."""
    (tmp_path / "cohort.csv").write_text("subject,scan,sequence,image\np,a,lge,a.nii\n")
    code = (
        "import sys, pathlib, crossbeat.evaluation.parallel, crossbeat.report\n"
        "from crossbeat.cli.options import cohort_at, pick\n"
        f"pick(cohort_at(pathlib.Path({str(tmp_path / 'cohort.csv')!r})), 'sequence=lge', False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_public_names_are_sorted_and_exist() -> None:
    import crossbeat

    assert list(crossbeat.__all__) == sorted(crossbeat.__all__)
    for name in crossbeat.__all__:
        assert getattr(crossbeat, name) is not None


@pytest.mark.parametrize("script", ["format --check", "check"])
def test_the_sources_are_laid_out_and_linted(script: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ruff", *script.split(), "src", "tests", "benchmarks", "docs"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
