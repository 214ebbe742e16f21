"""What importing costs and brings along, seen from fresh interpreters."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tenant_middleware

ROOT = Path(tenant_middleware.__file__).parent

# The rooms that may need an extra, and the extra that their ImportError has to name.
NEEDS = {
    "langchain": "langchain",
    "llamaindex": "llamaindex",
    "litellm": "litellm",
    "identity.fastapi": "asgi",
    "backends.redis": "redis",
    "backends.redisvl": "redisvl",
    "backends.pinecone": "pinecone",
    "notebook": "notebooks",
    "telemetry.prometheus": "prometheus",
    "reporting.page": "report",
}
LAZY = ("local", "demo")  # import at the first use
HEAVY = (
    *("langchain", "langchain_core", "langgraph", "llama_index", "litellm", "openai", "redis", "redisvl", "pinecone"),
    *("psycopg", "numpy", "wordllama", "xllamacpp", "matplotlib", "pytest", "starlette", "fastapi", "httpx"),
)

# Blocks every module whose distribution isn't in the closure of our base dependencies: a bare install.
BARE = """
import importlib.machinery, importlib.metadata, json, sys

allowed, tops = set(json.loads(sys.argv[1])), importlib.metadata.packages_distributions()
absent = {top for top, owners in tops.items() if not allowed & {owner.lower() for owner in owners}}

class Installed:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

sys.meta_path = [Installed(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
"""


def run(program: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def base_distributions() -> set[str]:
    """Our own name and everything a plain `pip install tenant-middleware` brings."""
    wanted, found = [Requirement("tenant-middleware")], set[str]()
    while wanted:
        requirement = wanted.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = requirement.extras | {""}
        if name in found and not requirement.extras:
            continue
        found |= {name, name.replace("-", "_"), requirement.name.lower()}
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return found


def modules() -> list[str]:
    """Every module of the package, by path: importing it is what is tested."""
    paths = (path.relative_to(ROOT.parent) for path in sorted(ROOT.rglob("*.py")))
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def needs_extra(module: str) -> bool:
    path = module.removeprefix("tenant_middleware").lstrip(".")
    return any(path == room or path.startswith(f"{room}.") for room in (*NEEDS, *LAZY))


def test_importing_the_package_loads_no_framework_and_no_client() -> None:
    loaded = json.loads(run("import json, sys, tenant_middleware; print(json.dumps(sorted(sys.modules)))"))
    assert "tenant_middleware" in loaded
    assert not [name for name in loaded if name.partition(".")[0] in HEAVY]


def test_the_core_imports_with_no_extra_installed() -> None:
    core = [name for name in modules() if not needs_extra(name) and not name.endswith("__main__")]
    core = [name for name in core if name.partition(".testing.")[1] == "" or name.endswith(".clock")]
    core = [name for name in core if ".migrations" not in name]  # run by Alembic alone, in a context of its own
    core = [name for name in core if not name.endswith(".pytest_plugin")]  # loaded by pytest alone
    assert len(core) > 5
    program = (
        BARE
        + "\nimport importlib\nfor name in json.loads(sys.argv[2]):\n    importlib.import_module(name)\nprint('ok')"
    )
    assert run(program, json.dumps(sorted(base_distributions())), json.dumps(core)).strip() == "ok"


def test_the_block_is_one() -> None:
    """The control: in that bare interpreter an installed framework is really out of reach."""
    program = BARE + "\ntry:\n    import langchain_core\nexcept ModuleNotFoundError:\n    print('absent')"
    assert run(program, json.dumps(sorted(base_distributions()))).strip() == "absent"


def test_the_package_and_its_metadata_name_one_version() -> None:
    assert importlib.metadata.version("tenant-middleware") == tenant_middleware.__version__


def test_every_public_name_is_there() -> None:
    for name in getattr(tenant_middleware, "__all__", []):
        assert getattr(tenant_middleware, name) is not None


def first_uses() -> list[tuple[str, str]]:
    """The first line of a user's program that needs an extra, for each room that exists."""
    there = set(modules())
    rooms = [(f"tenant_middleware.{room}", extra) for room, extra in NEEDS.items()]
    lines = [(f"import {module}", extra) for module, extra in rooms if module in there]
    calls = ["embeddings", "chat_model"] if "tenant_middleware.local" in there else []
    return lines + [(f"from tenant_middleware.local import {name}; {name}()", "langchain") for name in calls]


@pytest.mark.parametrize(("line", "extra"), first_uses())
def test_a_missing_extra_is_an_import_error_that_names_it(line: str, extra: str) -> None:
    program = BARE + (
        "\ntry:\n    exec(sys.argv[2])"
        "\nexcept ImportError as error:\n    print(error, '|', type(error.__cause__).__name__)"
    )
    said = run(program, json.dumps(sorted(base_distributions())), line).strip()
    assert f'pip install "tenant-middleware[{extra}]"' in said and said.endswith("| ModuleNotFoundError"), said


def test_every_extra_that_an_error_names_exists() -> None:
    named = {
        match[1]
        for path in ROOT.rglob("*.py")
        for match in re.finditer(r"missing_extra\(\s*\"([^\"]*)\"", path.read_text("utf-8"))
    }
    declared = importlib.metadata.metadata("tenant-middleware").get_all("Provides-Extra") or []
    assert named <= set(declared)


def test_the_testing_module_needs_no_test_framework() -> None:
    program = "import sys; from tenant_middleware.testing import ManualClock; print('pytest' in sys.modules)"
    assert run(program).strip() == "False"
