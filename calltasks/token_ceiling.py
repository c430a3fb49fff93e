"""How many tokens a piece of work may cost."""

from __future__ import annotations

import asyncio


class TokenCeiling:
    """Lets questions to the model through until their answers have cost so much.

    The price of a question is known when it is answered. Near the ceiling a question therefore waits for those under
    way, taken to cost as much as the dearest so far, so that only the last answer may lie above the ceiling.

    Args:
        ceiling: input and output tokens; None for no ceiling.
        spent: of them before.
    """

    def __init__(self, ceiling: int | None, spent: int = 0) -> None:
        self._ceiling = ceiling
        self._spent = spent
        self._under_way = 0
        self._dearest = 0
        self._settled = asyncio.Condition()

    async def admits(self) -> bool:
        """Whether one more question may be put; one that may must be settled afterwards."""
        if self._ceiling is None:
            return True
        async with self._settled:
            await self._settled.wait_for(self._is_clear)
            if self._spent >= self._ceiling:
                return False
            self._under_way += 1
            return True

    async def settle(self, tokens: int) -> None:
        """A question that was let through was answered, or failed, at this price."""
        if self._ceiling is None:
            return
        async with self._settled:
            self._under_way -= 1
            self._spent += tokens
            self._dearest = max(self._dearest, tokens)
            self._settled.notify_all()

    def _is_clear(self) -> bool:
        assert self._ceiling is not None
        if not self._under_way or self._spent >= self._ceiling:
            return True
        return self._dearest > 0 and self._spent + self._under_way * self._dearest < self._ceiling
