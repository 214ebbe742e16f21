"""What our retrieval costs over the bare operation, and what it finds."""

from __future__ import annotations

from benchmarks.vectors import adapters, recall, stores
from benchmarks.vectors.area import AREA

__all__ = ["AREA", "adapters", "recall", "stores"]
