"""The one model that the resident engine has in memory: loads it, and gives it up for another. Imports torch
only when a model is wanted, and in a thread."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.jobs import ModelKey
from engine.nn.kernels.build import kernels
from engine.page_files import PageFolder
from engine.protocol import Loading
from engine.quantized_folder import QuantizedFolder

if TYPE_CHECKING:
    from engine.runtime.local import LocalBackend

log = logging.getLogger("mull.engine")


class LoadedModel:
    """Holds at most one backend. Whoever wants another model has to know that nobody uses this one."""

    def __init__(
        self,
        profiles: Path | None,
        prompts: PageFolder | None,
        quantized: QuantizedFolder | None,
        calibrations: Path | None = None,
    ) -> None:
        """`calibrations` is the folder of what was measured of models, for whoever plans with them."""
        self.backend: LocalBackend | None = None
        self.calibrations = calibrations
        self._profiles = profiles
        self._prompts = prompts
        self._quantized = quantized
        self._key: ModelKey | None = None
        self._loading = asyncio.Lock()
        self._span_ns = (0, 0)
        """When the loading of what is there, or was to be there, began and ended."""
        self._warm: asyncio.Task[None] | None = None

    def warm(self) -> asyncio.Task[None]:
        """Import torch, which takes seconds, before anybody has said what it is wanted for."""
        if self._warm is None:
            # a compiler, where the kernels are yet to be built, runs beside the import
            threading.Thread(target=kernels, name="kernels", daemon=True).start()
            self._warm = asyncio.create_task(asyncio.to_thread(_import_runtime))
        return self._warm

    def has(self, wanted: ModelKey) -> bool:
        """Whether this model is what is there."""
        return self.backend is not None and self._key == wanted

    async def ready(self, wanted: ModelKey, tell: Callable[[Loading], None]) -> tuple[LocalBackend, bool]:
        """The model, and whether it had to be waited for; of several that want it at once, one loads it.

        Raises what `engine.setup.open_backend` raises; the model that was there then stays where it can.
        """
        began_ns = time.monotonic_ns()
        if self.backend is not None and self._key == wanted:
            return self.backend, False
        async with self._loading:
            if self.backend is None or self._key != wanted:
                if not self.warm().done():
                    tell(Loading(stage="importing torch"))
                await asyncio.shield(self.warm())
                await self._load(wanted, tell)
                self._span_ns = (began_ns, time.monotonic_ns())
            assert self.backend is not None  # loaded, or raised
            return self.backend, True

    def seconds_since(self, accepted_ns: int) -> float:
        """Seconds since then that went into loading what is there, for whomever."""
        began, ended = self._span_ns
        return max(0, ended - max(began, accepted_ns)) / 1e9

    async def close(self) -> None:
        """Let go of what is there; the event loop goes on meanwhile."""
        backend, self.backend, self._key = self.backend, None, None
        if backend is not None:
            await asyncio.to_thread(backend.close)

    async def _load(self, wanted: ModelKey, tell: Callable[[Loading], None]) -> None:
        from engine.setup import check, open_backend

        loop = asyncio.get_running_loop()

        def progressed(stage: str, done: int | None = None, total: int | None = None) -> None:
            loop.call_soon_threadsafe(tell, Loading(stage=stage, done=done, total=total))

        if self.backend is not None:  # what cannot be loaded is no reason to let go of what is there
            await asyncio.to_thread(check, wanted.spec, self._profiles)
            await self.close()
        self.backend = await asyncio.to_thread(
            open_backend, wanted.spec, self._profiles, progressed, self._prompts, self._quantized
        )
        self._key = wanted
        log.info("loaded %s", self.backend.info.name)


def _import_runtime() -> None:
    # the driver's own numbering, as detection has it
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    import engine.setup  # noqa: F401
