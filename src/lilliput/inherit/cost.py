"""What choosing and carving cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Cost:
    """Seconds and FLOPs by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add what the block takes to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"seconds": {name: round(value, 2) for name, value in self.seconds.items()}, "flops": self.flops}
