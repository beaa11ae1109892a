"""`mull config`: the settings in force, where each comes from, and where the file is."""

from __future__ import annotations

import click
import msgspec

from app import locations
from app.cli.output import show, show_json, show_table, warn
from app.config import load

UNSET = {
    "keep_alive": "as the engine was told last; 10m at first",
    "prompt_store": "4 GB, at most a tenth of the free space",
    "quantized_store": "50 GB, at most a quarter of the free space",
}
"""What is shown of a setting without a value where nothing would not say enough."""


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def config(ctx: click.Context, as_json: bool) -> None:
    """Show the settings and where each comes from.

    A flag goes before a variable MULL_*, which goes before config.toml (see: mull config path).
    """
    if ctx.invoked_subcommand is not None:
        return
    configuration = load()
    for warning in configuration.warnings:
        warn(warning)
    settings = msgspec.structs.asdict(configuration.settings)
    if as_json:
        show_json(
            [
                {"id": key, "name": key, "value": value, "origin": configuration.origins[key]}
                for key, value in settings.items()
            ]
        )
    else:
        rows = [
            (key, UNSET.get(key, "") if value is None else _text(key, value), configuration.origins[key])
            for key, value in settings.items()
        ]
        show_table(("setting", "value", "from"), rows)


@config.command()
def path() -> None:
    """Print where config.toml is, whether or not it is there."""
    show(str(locations.config_file()))


def _text(key: str, value: object) -> str:
    if key in ("prompt_store", "quantized_store"):
        return f"{value:,} bytes" if value else "off"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
