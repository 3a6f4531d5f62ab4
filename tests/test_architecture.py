"""The structure holds: imports point down, siblings do not know each other, foreign packages have one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "pytest_nriperf"

LAYERS: list[set[str]] = [
    {"plugin", "__main__"},
    {"fixtures", "cli"},
    {"session"},
    {"experiment"},
    {"marks"},
    {"report", "doctor", "testing"},
    {"provision", "generate", "collect"},
    {"instrument"},
    {"baselines", "sweep", "explain", "simulate"},
    {"metrics", "fingerprint"},
    {"stats", "samples", "counters"},
    {"seams", "sessions"},
    {"recording", "balloons"},
    {"topology"},
    {"settings"},
    {"units", "owner", "atomic"},
    {"errors"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Third-party package -> the one file that may import it. numpy and scipy belong to every pure module.
OWNERS = {
    "pyarrow": "recording.py",
    "torch": "generate/child/transformers_engine.py",
    "transformers": "generate/child/transformers_engine.py",
    "safetensors": "generate/child/transformers_engine.py",
    "gguf": "generate/child/transformers_engine.py",
    "accelerate": "generate/child/transformers_engine.py",
    "kubernetes": "provision/cluster.py",
    "urllib3": "provision/cluster.py",
    "websocket": "provision/cluster.py",
    "plotly": "report/figures.py",
}
EVERYWHERE = {"numpy", "scipy"}
PYTEST_FILES = {
    "plugin.py",
    "fixtures.py",
    "session/config.py",
    "session/hooks.py",
    "session/collecting.py",
    "session/working.py",
    "session/handles.py",
    "session/sweeping.py",
    "session/steering.py",
    "session/course.py",
    "session/gated.py",
    "session/keeping.py",
}

# All that is imported in every pytest run of everybody.
EAGER = {
    "pytest_nriperf",
    "pytest_nriperf.plugin",
    "pytest_nriperf.fixtures",
    "pytest_nriperf.session",
    "pytest_nriperf.session.config",
}
# These travel into any image: Python >= 3.9, standard library, each other.
TRAVELLING = ("generate/child/", "collect/")
TRAVELLING_FILES = {
    "__init__.py",
    "errors.py",
    "units.py",
    "owner.py",
    "seams.py",
    "provision/pod.py",
    "provision/pod_relay.py",
}

FILES = sorted(ROOT.rglob("*.py"))


def part(file: Path) -> str:
    relative = file.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module with whether it counts at run time (not under TYPE_CHECKING)."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in typing_only
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield str(node.module), id(node) not in typing_only
            if node.module == "pytest_nriperf":
                for alias in node.names:
                    yield f"pytest_nriperf.{alias.name}", id(node) not in typing_only


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_and_never_sideways(file: Path) -> None:
    own = part(file)
    assert own in LEVEL, f"{own} has no layer: give it one in this test and in docs/how-it-works.md"
    for module, _ in imports(file):
        if not module.startswith("pytest_nriperf."):
            continue
        other = module.split(".")[1]
        if other == own or other not in LEVEL:
            continue
        if own == "seams" and other in {"balloons", "topology"}:
            continue
        assert LEVEL[other] > LEVEL[own], f"{file.relative_to(ROOT)} imports {module}: up or sideways"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_foreign_package_has_one_owner(file: Path) -> None:
    relative = str(file.relative_to(ROOT))
    for module, runtime in imports(file):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in {"pytest_nriperf", *EVERYWHERE} or not runtime:
            continue
        if top in {"pytest", "_pytest", "pluggy"}:
            assert relative in PYTEST_FILES, f"{relative} imports {top}"
            continue
        if (
            relative.startswith("generate/child/")
            and "." not in module
            and (ROOT / "generate/child" / f"{top}.py").exists()
        ):
            continue
        assert OWNERS.get(top) == relative, f"{relative} imports {top}, which belongs to {OWNERS.get(top)}"


def test_a_pytest_run_that_does_not_use_us_imports_next_to_nothing() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_nriperf.plugin, pytest_nriperf.fixtures;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == EAGER


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if str(file.relative_to(ROOT)).startswith(TRAVELLING) or str(file.relative_to(ROOT)) in TRAVELLING_FILES
    ],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_what_travels_into_images_is_plain_python_3_9(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    assert "from __future__ import annotations" in file.read_text() or not tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dataclass":
            used = {keyword.arg for keyword in node.keywords}
            assert not used & {"slots", "kw_only"}, f"{file.name}: dataclass options of Python 3.10"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "zip":
            assert "strict" not in {keyword.arg for keyword in node.keywords}, (
                f"{file.name}: zip(strict=) of Python 3.10"
            )


def test_test_files_have_names_of_their_own() -> None:
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by name: two of one name hide each other"
