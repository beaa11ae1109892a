"""Work that was done for an answer before it began, such as a summary: charged to it, and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from engine.backend import Account
from engine.protocol import Receipt


def charged(account: Account, hidden: Sequence[Account]) -> Account:
    """An answer's account with the forwards of the work before it, and the seconds of its sampling."""
    sampling_s = dict(account.sampling_s)
    for other in hidden:
        for phase, seconds in other.sampling_s.items():
            sampling_s[phase] = sampling_s.get(phase, 0.0) + seconds
    before = [work for other in hidden for work in other.forwarded]
    return replace(account, forwarded=[*before, *account.forwarded], sampling_s=sampling_s)


def told(receipt: Receipt, turns_left_out: tuple[str, ...], hidden: Sequence[Account]) -> Receipt:
    """The receipt with the turns that were left out, and the tokens of the hidden work as their own kind."""
    work = [work for account in hidden for work in account.forwarded]
    prefilled = sum(entry.tokens for entry in work if entry.kind == "prefilled")
    written = sum(entry.tokens for entry in work if entry.kind == "answer")
    tokens = msgspec.structs.replace(
        receipt.tokens,
        prefilled=receipt.tokens.prefilled - prefilled,
        answer=receipt.tokens.answer - written,
        summary=prefilled + written,
    )
    state = msgspec.structs.replace(receipt.state, turns_left_out=turns_left_out)
    return msgspec.structs.replace(receipt, tokens=tokens, state=state)
