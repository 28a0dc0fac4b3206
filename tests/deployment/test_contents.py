"""The code in the images and in the Bento: what their programs import, and nothing else."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("loupe", "service", "train", "worker")
COMMANDS = {
    "service": {"doctor", "key", "models", "predict", "serve"},
    "worker": {"doctor", "jobs", "models", "predict", "score", "worker"},
    "train": {"data", "doctor", "models", "predict", "train"},
}
RUN = (
    "import sys; "
    "sys.path = ['.', *(path for path in sys.path if path not in ('', {root!r}))]; {code}"
)


def copied_by_the_dockerfile(target: str) -> list[str]:
    """Return the paths of code that an image's stage copies."""
    stage = re.search(
        rf"^FROM base AS {target}\n(.*?)(?=^FROM|\Z)",
        (ROOT / "Dockerfile").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert stage
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", stage[1], re.MULTILINE)
    return [path for line in copies for path in line.split()]


def included_in_the_bento() -> list[str]:
    """Return the patterns of code in bentofile.yaml."""
    patterns = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    return [pattern for pattern in patterns if pattern.startswith(PACKAGES)]


@pytest.fixture(params=["service", "worker", "train", "bento"])
def program(request: pytest.FixtureRequest) -> str:
    """Return the name of an image, or `bento`."""
    return str(request.param)


@pytest.fixture
def code(program: str, tmp_path: Path) -> Path:
    """Return a folder with the code of an image or of the Bento."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = included_in_the_bento() if program == "bento" else copied_by_the_dockerfile(program)
    matched = {match for pattern in wanted for match in ROOT.glob(pattern.rstrip("/"))}
    for name in tracked:
        path = ROOT / name
        if path.is_file() and not matched.isdisjoint([path, *path.parents]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / name)
    return tmp_path


def test_every_module_that_the_code_imports_is_there(code: Path) -> None:
    missing = {
        f"{path.relative_to(code)} imports {module}"
        for path in code.rglob("*.py")
        for module in imported(path)
        if not exists(code, module)
    }
    assert not missing


@pytest.mark.parametrize("program", ["service", "bento"], indirect=True)
def test_service_has_only_the_modules_of_the_worker_that_it_imports(code: Path) -> None:
    needed: set[Path] = set()
    found = [module for path in (code / "service").rglob("*.py") for module in imported(path)]
    while found:
        module = found.pop()
        path = code / module.replace(".", "/")
        path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if module.startswith("worker") and path.exists() and path not in needed:
            needed.add(path)
            found += [*imported(path), module.rpartition(".")[0]]

    assert needed == set((code / "worker").rglob("*.py"))


@pytest.mark.parametrize("program", ["service", "bento", "worker"], indirect=True)
def test_client_side_of_the_queue_has_all_its_files(code: Path) -> None:
    run(code, "import redis, worker.queue.jobs as jobs; jobs.Jobs(redis.Redis())")


@pytest.mark.parametrize("program", ["service", "worker", "train"], indirect=True)
def test_command_line_lists_the_commands_of_the_image(code: Path, program: str) -> None:
    listed = run(
        code,
        "from loupe.cli.main import LazyGroup; print(*LazyGroup(name='loupe').list_commands(None))",
    )
    assert set(listed.split()) == COMMANDS[program]


def test_files_that_images_copy_are_in_the_build_context() -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for target in ("service", "worker", "train"):
        for path in copied_by_the_dockerfile(target):
            assert f"!{path.partition('/')[0]}" in sent


def imported(path: Path) -> set[str]:
    """Return the modules of Loupe that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | {name for name in inside if exists(ROOT, name)}
    return {name for name in found if name.startswith(PACKAGES) and exists(ROOT, name)}


def exists(folder: Path, module: str) -> bool:
    """Return whether a folder has a module or a package."""
    path = folder / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def run(code: Path, statements: str) -> str:
    """Run Python code that finds no other copy of Loupe, and return its output."""
    command = [sys.executable, "-c", RUN.format(root=str(ROOT), code=statements)]
    ended = subprocess.run(command, cwd=code, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
