"""transformers without a word on the terminal: no log, and our own stand-ins for its progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Bar:
    """Passes on what the progress bar would go through, and shows nothing."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        yield from self._items

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _steps: int = 1) -> None:
        """Bars that are advanced by hand are not shown."""

    def close(self) -> None:
        """There is nothing to close."""


@contextmanager
def quiet(bar: Callable[[Iterable[Any]], Bar] = Bar) -> Iterator[None]:
    """Until the context ends."""
    from transformers.utils import logging

    hook = logging.set_tqdm_hook(lambda _factory, args, _kwargs: bar(args[0] if args else ()))
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(verbosity)
