"""What a distribution says about a token's certainty, reduced where the logits are. Knows no sampling."""

from __future__ import annotations

import math

import torch

from engine.backend import Watch

TOP = 20


class Watcher:
    """Keeps a few numbers per token on the device; nothing is waited for until they are asked for."""

    def __init__(self) -> None:
        self._rows: list[torch.Tensor] = []

    @torch.inference_mode()
    def see(self, logits: torch.Tensor, token: int) -> None:
        """Take the logits, [vocabulary], from which a token was chosen."""
        logs = torch.log_softmax(logits.double(), -1)
        top = logs.topk(min(TOP, len(logs))).values
        entropy = -(logs.exp() * logs).nan_to_num(nan=0.0).sum()
        certainty = -logs.clamp(min=-1e4).mean() - math.log(len(logs))
        self._rows.append(torch.cat([top, torch.stack([entropy, certainty, logs[token]])]))

    def seen(self) -> tuple[Watch, ...]:
        """One entry per token."""
        if not self._rows:
            return ()
        rows = torch.stack(self._rows).cpu().tolist()
        return tuple(Watch(tuple(row[:-3]), *row[-3:]) for row in rows)
