"""From a checked checkpoint to a model in memory, through transformers' own loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from engine.load.checkpoint import Checkpoint
from engine.load.errors import ModelError
from engine.load.quantizer import LoadingConfig, Quantize, keep, tie_head

Progress = Callable[[str, int | None, int | None], None]
"""Called with a stage, and bytes done and in total where they are known."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    checkpoint: Checkpoint,
    dtype: str,
    device: str,
    attention: str,
    progress: Progress,
    quantize: Quantize | None = None,
) -> Any:
    """The model in memory, in eval mode, with the attention function registered under `attention`.

    `dtype` is fp32, bf16 or fp16, of what is not quantized; `quantize` is done to each matrix as it is read.
    Raises ModelError where the checkpoint and its configuration disagree.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    sizes = checkpoint.source.sizes
    total = sum(sizes.values())
    stage = "quantizing weights" if quantize else "loading weights"
    errors: list[str] = []
    settings = {}
    if quantize is not None or checkpoint.source.quantization is not None:
        settings["quantization_config"] = LoadingConfig(quantize or keep, _DTYPES[dtype], errors.append)
    hook = logging.set_tqdm_hook(lambda _factory, args, _kwargs: _Loading(args, sizes, stage, progress))
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    progress(stage, 0, total)
    try:
        with checkpoint.source.open(mapped=quantize is None) as parameters:
            model, report = checkpoint.model_class.from_pretrained(
                None,
                config=checkpoint.config,
                state_dict=parameters,
                dtype=_DTYPES[dtype],
                attn_implementation=attention,
                generation_config=GenerationConfig(),
                output_loading_info=True,
                **settings,
            )
    except ModelError:
        raise
    except Exception as error:  # whatever transformers met in files that a person named
        cause = errors[0] if errors else _one_line(error)
        raise ModelError(f"{checkpoint.folder} cannot be loaded: {cause}") from error
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{checkpoint.folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}",
            "download the model completely",
        )
    progress(stage, total, total)
    model.eval().requires_grad_(False).to(device)
    tie_head(model)
    return model


class _Loading:
    """Stands in for transformers' progress bar: passes the items on and reports the bytes of each."""

    def __init__(
        self, args: tuple[Any, ...], sizes: Mapping[str, int], stage: str, progress: Progress
    ) -> None:
        self._items: Iterable[Any] = args[0] if args else ()
        self._sizes = sizes
        self._stage = stage
        self._progress = progress

    def __iter__(self) -> Iterator[Any]:
        done = 0
        for item in self._items:
            yield item
            if isinstance(item, tuple):  # (first target name, a mapping that knows the checkpoint's names)
                targets = getattr(item[1], "layer_targets", {})
                names = {name for sources in targets.values() for name in sources}
                done += sum(self._sizes.get(name, 0) for name in names)
                self._progress(self._stage, done, sum(self._sizes.values()))

    def __enter__(self) -> _Loading:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _steps: int = 1) -> None:
        """Bars that are advanced by hand are not shown."""

    def close(self) -> None:
        """There is nothing to close."""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
