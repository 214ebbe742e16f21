"""What users and our own tests share: a manual clock and one contract suite per protocol.

Importing it needs no test framework; the suites in the modules beside it import pytest themselves.
"""

from tenant_middleware.testing.clock import ManualClock

__all__ = ["ManualClock"]
