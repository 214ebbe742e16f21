"""An environment of its own for packages that pin a Pinecone SDK older than ours, made when it is first asked for."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.hazards.scoreboard import NotRun

PACKAGES = ("langchain-pinecone==0.2.13", "llama-index-vector-stores-pinecone==0.9.0")
PLACE = Path(__file__).parents[2] / ".venv-old-pinecone"
SCENES = Path(__file__).with_name("old_pinecone_scenes.py")
MINUTES = 8


def leaks(scene: str, host: str) -> bool:
    """Play a scene of `old_pinecone_scenes` against an index host."""
    done = subprocess.run(
        [_python(), str(SCENES), scene, host],
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
        if not made.exists() or made.read_text() != "\n".join(PACKAGES):
            try:
                _do(sys.executable, "-m", "venv", str(PLACE))
                _do(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise NotRun(f"an environment with {' and '.join(PACKAGES)} can't be made here") from error
            made.write_text("\n".join(PACKAGES))
    return str(python)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=MINUTES * 60)
