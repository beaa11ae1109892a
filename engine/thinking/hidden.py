"""Work that was done for an answer before it began, such as a summary: charged to it, and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from engine.backend import Account
from engine.protocol import Receipt


def charged(account: Account, hidden: Sequence[Account]) -> Account:
    """An answer's account with all that was spent before it; cached tokens and times are its own."""
    every = [*hidden, account]
    phases = {phase for one in every for phase in one.sampling_s}
    return replace(
        account,
        forwarded=[work for one in every for work in one.forwarded],
        sampling_s={phase: sum(one.sampling_s.get(phase, 0.0) for one in every) for phase in phases},
        drafts_accepted=sum(one.drafts_accepted for one in every),
        drafts_rejected=sum(one.drafts_rejected for one in every),
        drafted=[work for one in every for work in one.drafted],
        degradations=[event for one in every for event in one.degradations],
    )


def told(receipt: Receipt, turns_left_out: tuple[str, ...], hidden: Sequence[Account]) -> Receipt:
    """The receipt with the turns that were left out, and the tokens of the hidden work as their own kind."""
    work = [work for account in hidden for work in account.forwarded]
    prefilled = sum(entry.tokens for entry in work if entry.kind == "prefilled")
    written = sum(entry.tokens for entry in work if entry.kind == "answer")
    tokens = msgspec.structs.replace(
        receipt.tokens,
        prefilled=receipt.tokens.prefilled - prefilled,
        answer=receipt.tokens.answer - written,
        draft_accepted=receipt.tokens.draft_accepted - sum(entry.accepted for entry in work),
        summary=prefilled + written,
    )
    state = msgspec.structs.replace(receipt.state, turns_left_out=turns_left_out)
    return msgspec.structs.replace(receipt, tokens=tokens, state=state)
