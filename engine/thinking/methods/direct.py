"""direct: answer without thinking."""

from engine.thinking.context import Context


async def run(ctx: Context) -> None:
    """Prefill the prompt, whose template has thinking switched off, and answer."""
    await ctx.prefill()
    await ctx.reply()
