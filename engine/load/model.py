"""From a checked checkpoint to a model in memory, through transformers' own loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from engine.load.checkpoint import Checkpoint
from engine.load.errors import ModelError
from engine.load.quantizer import LoadingConfig, Quantize, keep, tie_head
from engine.load.quiet import Bar, quiet
from engine.load.source import Parameters

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
    kept: Parameters | None = None,
) -> Any:
    """The model in memory, in eval mode, with the attention function registered under `attention`.

    `dtype` is fp32, bf16 or fp16, of what is not quantized; `quantize` is done to each matrix as it is read.
    `kept` is what it is loaded from instead of its own files. Raises ModelError where the parameters and the
    configuration disagree; `engine.load.foresee` says so before any is read.
    """
    from transformers import GenerationConfig

    source = kept or checkpoint.source
    sizes = source.sizes
    total = sum(sizes.values())
    stage = "quantizing weights" if quantize else "loading weights"
    errors: list[str] = []
    settings = {}
    if quantize is not None or source.quantization is not None:
        settings["quantization_config"] = LoadingConfig(quantize or keep, _DTYPES[dtype], errors.append)
    progress(stage, 0, total)
    try:
        bar = partial(_Loading, sizes, stage, progress)
        with quiet(bar), source.open(mapped=quantize is None) as parameters:
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


class _Loading(Bar):
    """Reports the bytes of each item that it passes on."""

    def __init__(
        self, sizes: Mapping[str, int], stage: str, progress: Progress, items: Iterable[Any]
    ) -> None:
        super().__init__(items)
        self._sizes = sizes
        self._stage = stage
        self._progress = progress

    def __iter__(self) -> Iterator[Any]:
        done = 0
        for item in super().__iter__():
            yield item
            if isinstance(item, tuple):  # (first target name, a mapping that knows the checkpoint's names)
                targets = getattr(item[1], "layer_targets", {})
                names = {name for sources in targets.values() for name in sources}
                done += sum(self._sizes.get(name, 0) for name in names)
                self._progress(self._stage, done, sum(self._sizes.values()))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
