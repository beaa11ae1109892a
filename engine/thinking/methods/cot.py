"""cot: think within the budget, then answer.

Source: budget forcing, Muennighoff et al., "s1: Simple test-time scaling", 2025, section 3.1.
"""

from engine.thinking.context import Context


async def run(ctx: Context) -> None:
    """Prefill the prompt, think until the model or the budget ends the thought, and answer."""
    await ctx.prefill()
    await ctx.reply()
