"""An environment of its own for packages older than ours, made when it is first asked for."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.hazards.scoreboard import NotRun

PLACE = Path(__file__).parents[2] / ".venv-old-packages"
PACKAGES = Path(__file__).with_name("old_packages.txt")
SCENES = Path(__file__).with_name("old_scenes.py")
MINUTES = 8


def leaks(scene: str, address: str) -> bool:
    """Play a scene of `old_scenes` against the server at an address."""
    done = subprocess.run(
        [_python(), str(SCENES), scene, address],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    verdict = done.stdout.strip()
    if done.returncode or verdict not in ("leaks", "holds"):
        raise AssertionError(f"{scene}: {done.stderr[-2000:]}")
    return verdict == "leaks"


def _python() -> str:
    """The environment's Python; raises NotRun when it can't be made here."""
    PLACE.mkdir(exist_ok=True)
    python, made = PLACE / "bin" / "python", PLACE / "made"
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers make one
        if not made.exists() or made.read_text() != PACKAGES.read_text():
            try:
                _do(sys.executable, "-m", "venv", str(PLACE))
                _do(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(PACKAGES))
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise NotRun(f"an environment with {PACKAGES.name} can't be made here") from error
            made.write_text(PACKAGES.read_text())
    return str(python)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=MINUTES * 60)
