"""The second engine's records, as far as they do not belong to the register of deeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import attrs
from msgspec.structs import replace
from typing_extensions import override

from trepid.ports.records import Records, Step


@final
@attrs.frozen(eq=False)
class LentRecords(Records):
    """Records behind a prefix, so that they never meet what the register keeps."""

    _inner: Records

    @override
    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        return await self._inner.carry_out([replace(step, key=_behind(step.key)) for step in steps])

    @override
    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        return await self._inner.changed(_behind(key), known, wait=wait)


def _behind(key: str) -> str:
    return f"own/{key}"
