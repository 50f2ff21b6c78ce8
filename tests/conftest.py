"""What all tests share: an event loop policy that makes no loops behind anybody's back."""

import asyncio
import sys

if sys.version_info < (3, 14):

    class _NoImplicitLoop(asyncio.DefaultEventLoopPolicy):
        """Without a current loop, `get_event_loop` raises, as it always does from Python 3.14 on.

        Before, it makes one. pytest-asyncio asks for it around every test and nobody closes it, so that some later
        test would fail with an "unclosed event loop" warning, whenever the garbage collector happens to run.
        """

        def get_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = getattr(self._local, "_loop", None)  # type: ignore[attr-defined]  # set by the base class
            if loop is None:
                raise RuntimeError("there is no current event loop")
            return loop  # type: ignore[no-any-return]  # as above

    asyncio.set_event_loop_policy(_NoImplicitLoop())
