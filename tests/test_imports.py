"""The shape of the package: imports point downward, the light rooms stay light, no name hides another package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up. A module may import from its own line and from those above it here; see docs/architecture.md.
ORDER = [
    {"errors", "schema", "recipe", "measured", "machine", "runs"},
    {"data"},
    {"cli"},
    {"scoring"},
    {"nets"},
    {"training"},
    {"inference"},
    {"leaderboard"},
    {"report"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
NO_TORCH = (
    "kit.errors",
    "kit.schema",
    "kit.recipe",
    "kit.measured",
    "kit.machine",
    "kit.runs",
    "kit.cli",
    "kit.data",
    "kit.scoring",
    "kit.leaderboard",
)


def name_of(path):
    """kit/data/rle.py -> kit.data.rle, and a package's __init__.py -> the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "kit").rglob("*.py"))}
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def imported(source, module):
    """Every module or name that a source imports, wherever the import stands, spelled in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def wrong_arrows(module, source):
    """The kit's modules that this one imports although they lie above it."""
    level = LEVEL[module.split(".")[1]]
    names = [name for name in imported(source, module) if name.startswith("kit.")]
    return [name for name in names if LEVEL.get(name.split(".")[1], -1) > level]


def test_every_room_has_its_place():
    assert {module.split(".")[1] for module in MODULES if module != "kit"} <= LEVEL.keys()
    assert len(MODULES) > 10


@pytest.mark.parametrize("module", [module for module in MODULES if module != "kit"])
def test_imports_point_downward(module):
    assert wrong_arrows(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from kit.nets import losses",
        "import kit.nets.losses",
        "from kit import nets",
        "def later():\n    from kit.nets.losses import LOSSES",
        "if TYPE_CHECKING:\n    import kit.nets",
        "from ..nets import losses",
    ],
)
def test_a_wrong_arrow_is_seen_however_it_is_written(source):
    assert len(wrong_arrows("kit.scoring.metric", source)) == 1
    assert wrong_arrows("kit.training.learner", source.replace("from ..nets", "from kit.nets")) == []


def loaded_after(*modules):
    """The top-level packages that a fresh interpreter has loaded after importing these."""
    code = f"import sys\nimport {', '.join(modules)}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_rooms_without_torch_never_load_it():
    light = [module for module in MODULES if module.startswith(NO_TORCH)]
    assert {"kit.data.rle", "kit.scoring.metric", "kit.leaderboard.submission"} <= set(light)
    heavy = {"torch", "torchvision", "fastai", "timm", "albumentations"}
    assert loaded_after(*light) & heavy == set()


def test_importing_the_kit_loads_nothing_but_the_standard_library():
    assert loaded_after("kit") - loaded_after("sys") == {"kit"}


def test_no_module_hides_another():
    """A script's folder is on the path, and a module called like a package is a trap in its own folder."""
    files = [*MODULES.values(), *SCRIPTS]
    packages = {name.split(".")[0] for path in files for name in imported(path.read_text(), name_of(path))} - {"kit"}
    names = {path.stem for path in files} | {folder.name for folder in (ROOT / "kit").iterdir() if folder.is_dir()}
    scripts = {path.stem for path in SCRIPTS}
    assert (names - {"__init__"}) & (packages - scripts | set(sys.stdlib_module_names) | {"kaggle", "torch"}) == set()
