"""Imports run in one order, between the packages and between their rooms; --help loads little."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.commands import ROOT

# A room imports from itself and from rooms named before it. Commands stand on all of them.
ROOMS = {
    "featurestore": (
        "errors units ignored cli io labels numerics fields spec taps schema layout decision "
        "ledger writer commit reading index store arrow epochs torch reuse quarantine runs "
        "relabel export info checking compaction __main__"
    ).split(),
    "classifier": (
        "runtime cachefolder figures pixels inputs graphs presets base engines features heads runs "
        "judgement reporting auditing exporting adopting training recipes"
    ).split(),
    "pipelines": (
        "options settings flags watching packing planning extraction opening finishing scoring "
        "deriving beam driver deriver estimating diagnosis steps execution ranking"
    ).split(),
}
COMMANDS = {
    "featurestore": set(),
    # The last is an address of version 0.1 that other programs may still use.
    "classifier": {
        "bases",
        "show",
        "train",
        "finetune",
        "evaluate",
        "predict",
        "verify",
        "report",
        "export",
        "adopt",
        "audit",
        "search",
        "imagefiles",
    },
    "pipelines": {"extract", "pack", "ridge", "score", "recipe", "tournament", "doctor"},
}
MOST_MODULES = 20
HEAVY = ("tensorflow", "keras", "apache_beam", "matplotlib", "cv2", "openvino", "nncf", "scipy")


def loaded(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module, absent",
    [
        ("featurestore", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.info", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.checking.verify", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.export", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.relabel", {*HEAVY, "classifier", "pipelines"}),
        ("classifier.verify", {"tensorflow", "keras", "apache_beam", "pipelines", "matplotlib"}),
        ("pipelines.pack", {"tensorflow", "keras", "apache_beam"}),
        ("classifier.train", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.finetune", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.report", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.adopt", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.audit", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.search", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.export", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.inputs", {"tensorflow", "keras", "apache_beam", "pipelines"}),
        ("pipelines.extract", {"tensorflow", "keras", "apache_beam", "openvino", "nncf"}),
        ("pipelines.ridge", {"tensorflow", "keras", "apache_beam"}),
        ("pipelines.score", {"tensorflow", "keras", "apache_beam", "openvino", "nncf"}),
        ("pipelines.beam.ridge", {"tensorflow", "keras"}),
        ("pipelines.diagnosis.diagnose", {"tensorflow", "keras", "apache_beam", "openvino"}),
        ("pipelines.planning.plan", {"tensorflow", "keras", "apache_beam"}),
        ("pipelines.beam.transforms", {"tensorflow", "keras", "openvino", "nncf"}),
    ],
)
def test_imports_go_down_only(module, absent):
    assert not absent & loaded(f"import {module}")


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.extract",
        "pipelines.recipe",
        "pipelines.doctor",
        "pipelines.pack",
        "pipelines.ridge",
        "pipelines.score",
        "classifier.verify",
        "featurestore",
        "classifier.bases",
        "classifier.train",
        "classifier.finetune",
        "classifier.evaluate",
        "classifier.predict",
        "classifier.show",
        "classifier.report",
        "classifier.export",
        "classifier.recipes",
        "classifier.adopt",
        "classifier.audit",
        "classifier.search",
    ],
)
def test_help_loads_nothing_heavy(module):
    run = f"import runpy\nsys.argv = ['x', '--help']\ntry: runpy.run_module('{module}', "
    run += "run_name='__main__')\nexcept SystemExit as end: assert not end.code, end.code"
    assert not {*HEAVY} - {"cv2"} & loaded(run)


def modules() -> dict[str, Path]:
    """Every module of the product: its dotted name -> its file."""
    found = {}
    for package in ROOMS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the product that a file imports, wherever in it, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in named}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def place(module: str) -> tuple[int, int]:
    """Where a module stands in the order: of its package, and of its room in it."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    rooms = ROOMS[package]
    if not room:
        return list(ROOMS).index(package), -1
    assert room in rooms or room in COMMANDS[package], f"{module}: a room without a place"
    return list(ROOMS).index(package), rooms.index(room) if room in rooms else len(rooms)


def test_imports_run_in_the_order_of_the_rooms():
    for package, rooms in ROOMS.items():
        sys.stdout.write(f"{package}: {' <- '.join([*rooms, 'commands'])}\n")
    known = modules()
    wrong = [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in imports(path, known)
        if place(other) > place(module) and place(module)[1] >= 0
    ]
    assert not wrong, wrong


def test_no_imports_go_in_a_circle():
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    # A package's own module stands for its folder: what lies in it may import from it.
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    for name in packages:
        graph[name] = {other for other in graph[name] if not name.startswith(f"{other}.")}
    for name in set(graph) - packages:
        graph[name] = {other for other in graph[name] if other not in packages}
    TopologicalSorter(graph).prepare()


def test_commands_are_imported_by_nobody():
    known = modules()
    commands = {f"{package}.{name}" for package, names in COMMANDS.items() for name in names}
    for module, path in known.items():
        assert not imports(path, known) & commands - {module}, module


def test_only_one_room_imports_beam():
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "apache_beam" for name in names):
                assert module.startswith("pipelines.beam."), module


def test_no_folder_holds_more_modules_than_one_can_look_over():
    for folder in {path.parent for path in modules().values()}:
        count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        assert count <= MOST_MODULES, folder
