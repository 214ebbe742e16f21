"""A model call for the length of a `with` or an `async with`: admitted, noted as open in its context, and ended."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from tenant_middleware.admission.call import Call, Hold
from tenant_middleware.context import enter_call, leave_call, refuse_other

if TYPE_CHECKING:
    from tenant_middleware.admission.gate import ModelGate


class Entry:
    """What `gate.call` and `gate.acall` give; a generator in its place would take three times as long."""

    __slots__ = ("_call", "_gate", "_hold", "_outer")

    def __init__(self, gate: ModelGate, call: Call) -> None:
        self._gate, self._call = gate, call

    def __enter__(self) -> Hold:
        refuse_other(self._call.tenant)
        return self._entered(self._gate.admit(self._call))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave_call(self._hold, self._outer)
        self._gate.end(self._hold, error)

    async def __aenter__(self) -> Hold:
        refuse_other(self._call.tenant)
        return self._entered(await self._gate.aadmit(self._call))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave_call(self._hold, self._outer)
        await self._gate.aend(self._hold, error)

    def _entered(self, hold: Hold) -> Hold:
        self._hold, self._outer = hold, enter_call(hold)
        return hold
