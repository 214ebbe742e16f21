"""What no linter looks at: no file hides a second room, and nothing tracked names a machine or a package registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES = 400
ROOMS = ("src/", "integrations/")
MACHINE = re.compile(
    rb"(?:^|[\s\"'(=:])/(?:home|Users|root|work)/[\w.-]+"  # a path that exists on one machine only
    rb"|https?://[^\s\"'<>)]*/(?:simple|pypi|npm-proxy)(?:/|\b)"  # a package index
    rb"|(?:extra-)?index-url|find-links|trusted-host"
)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def too_long(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    if path.suffix != ".py" or not name.startswith(ROOMS):
        return []
    lines = path.read_text("utf-8").count("\n")
    return [f"{name}: {lines} lines, at most {MOST_LINES}: split it by noun"] if lines > MOST_LINES else []


def machine_words(path: Path) -> list[str]:
    if path == Path(__file__):
        return []
    name = path.relative_to(ROOT).as_posix()
    data = path.read_bytes()
    if b"\0" in data:
        return []
    return [
        f"{name}:{data[: match.start()].count(10) + 1}: a machine's path or a package registry: {match[0].strip()!r}"
        for match in MACHINE.finditer(data)
    ]


def main() -> int:
    found = [line for path in tracked() for line in (*too_long(path), *machine_words(path))]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
