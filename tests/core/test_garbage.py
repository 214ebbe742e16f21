"""Collections in the middle of ContextVar.set: what finalizers do to the context must not crash the process."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from contextvars import ContextVar, copy_context

# Importing the package (or not), then garbage whose finalizer sets every variable of the running context and writes
# over what that freed; it is collected by the 1st, 2nd, ... allocation inside a `set`.
PROGRAM = """
import gc, sys
from contextvars import ContextVar, copy_context
if sys.argv[1] == "kept":
    import tenant_middleware.context

variables = [ContextVar(f"v{number}") for number in range(5)]

class Stream:
    def __init__(self):
        self.itself = self

    def __del__(self):
        global collected, reused
        collected += 1
        for variable in variables:
            variable.set(object())
        reused = [b"x" * size for size in range(16, 496, 16) for _ in range(300)]

def run():
    for variable in variables:
        variable.set(object())
    for allocation in range(4):
        for number in range(50):
            gc.disable()
            Stream()
            pad = []
            while gc.get_count()[0] < 5_000 - allocation:
                pad.append([])
            gc.enable()
            variables[-1].set(number)

collected, reused = 0, []
gc.set_threshold(5_000)
copy_context().run(run)
print(collected)
"""


def _run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=120)


def test_a_finalizer_that_sets_a_variable_crashes_nothing() -> None:
    done = _run("kept")
    assert done.returncode == 0 and int(done.stdout) >= 50, done.stderr


def test_without_the_hold_the_same_program_crashes() -> None:
    """The control: most often by a segmentation fault, at times what is read after it was freed raises something.

    Since Python 3.12 nothing is collected inside of `set`.
    """
    codes = (_run("bare").returncode for _ in range(5))
    assert any(codes) is (sys.version_info < (3, 12))


def test_a_collection_leaves_alive_what_the_running_context_holds() -> None:
    class Value:
        pass

    variable: ContextVar[Value | None] = ContextVar("variable", default=None)

    class Stream:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            variable.set(None)

    def run() -> None:
        held = weakref.ref(value := Value())
        variable.set(value)
        del value
        Stream()
        gc.collect()
        assert variable.get() is None and held() is not None, "freed while the collection's caller may walk it"
        gc.collect()
        assert held() is None, "kept for no longer than to the next one"

    gc.disable()  # another thread's collection would be the next one
    try:
        copy_context().run(run)
    finally:
        gc.enable()
