"""integrations/litellm-proxy as its README says: run.sh with the local model, then every command and example."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tenant_middleware.settings import load
from tests.litellm.proxy import free_port

FOLDER = Path(__file__).parents[2] / "integrations" / "litellm-proxy"
README = (FOLDER / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The proxy of run.sh on a port of its own, and the folder that the README's commands run in."""
    folder, port = tmp_path_factory.mktemp("litellm-proxy"), free_port()
    env = os.environ | {"PORT": str(port), "RUN_DIR": str(folder / ".run"), "PYTHON": sys.executable}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([FOLDER / "run.sh"], env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + 300
            while time.monotonic() < end:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.3)
            else:
                raise RuntimeError((folder / "log").read_text()[-3000:])
            yield folder, port
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def _run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.services
def test_the_readmes_commands(place: tuple[Path, int]) -> None:
    folder, port = place
    script = "\n".join(_blocks("python")).replace(":4000", f":{port}")
    said = _run([sys.executable, "-c", script], folder)
    assert re.search(r"402 budget_(exceeded|busy) \d+", said), said
    curl, forged, usage = [block.replace(":4000", f":{port}") for block in _blocks("sh")[1:]]
    answered, refused = _run(["bash", "-ec", curl], folder), _run(["bash", "-ec", forged], folder)
    assert "200 OK" in answered and "x-tenant-budget-remaining-usd" in answered
    assert '"code":"parameter_not_allowed"' in refused and "no-log" in refused
    end = time.monotonic() + 30  # rows are written behind the calls
    while not {"acme", "initech"} <= set((said := _run(["bash", "-ec", usage], folder)).split()):
        assert time.monotonic() < end, said


def test_the_policy_is_one_that_loads() -> None:
    _, policy = load(FOLDER / "tenancy.toml", environ={})
    assert set(policy.tenants) == {"acme", "globex", "initech"}


def test_the_compose_file_hangs_together() -> None:
    """No container engine runs here: names, mounts and settings are checked, the images are not."""
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services = compose["services"]
    proxy = services["proxy"]
    assert set(proxy["depends_on"]) <= set(services)
    assert all("healthcheck" in services[name] for name in proxy["depends_on"])
    assert (FOLDER / proxy["build"]["context"] / proxy["build"]["dockerfile"]).is_file()
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source == "./jwks.json" or (FOLDER / source).is_file(), source
    assert all(port.startswith("127.0.0.1:") for port in proxy["ports"])
    ours = {name: value for name, value in proxy["environment"].items() if name.startswith("TENANCY__")}
    settings, _ = load(
        FOLDER / "tenancy.toml", environ={k: re.sub(r"\$\{\w+:\?\}", "x" * 32, v) for k, v in ours.items()}
    )
    assert settings.backends.admission.startswith("redis://redis")
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    asked = set(re.findall(r"os\.environ/(\w+)", yaml.safe_dump(config)))
    assert asked <= set(proxy["environment"])
    header = (FOLDER / "compose.yaml").read_text().partition("services:")[0]
    for name in re.findall(r"\$\{(\w+):\?\}", (FOLDER / "compose.yaml").read_text()):
        assert name in header, f"the header doesn't say that {name} is needed"
