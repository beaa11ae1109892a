"""`mull profiles`: the hardware catalogue, and which entry is this machine."""

from __future__ import annotations

import click

from app import figures, locations
from app.cli.output import show, show_json, show_table, warn
from app.errors import CommandError
from profiles import catalogue, detect
from profiles.catalogue import Profile


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profiles(name: str | None, as_json: bool) -> None:
    """List hardware profiles, this machine's first, or show the profile NAME.

    NAME is an id or a name from the list. Files in the user's profiles folder add to the catalogue.
    """
    directory = locations.profiles_directory()
    found = detect.detect(user_dir=directory)
    if name is None:
        own = found.profile
        others = [item for item in catalogue.load(directory, warn=warn) if item.id != own.id]
        _list([own, *others], own, as_json)
        return
    try:
        chosen = detect.detect(name, user_dir=directory)
    except catalogue.UnknownProfile as error:
        raise CommandError(str(error), status=2) from error
    if as_json:
        show_json(chosen.as_object())
    else:
        _show(chosen)


def _list(listed: list[Profile], own: Profile, as_json: bool) -> None:
    if as_json:
        show_json([{**item.as_object(), "this_machine": item.id == own.id} for item in listed])
        return
    show_table(
        ("", "id", "name", "memory", "bandwidth", "peak"),
        [("▸" if item.id == own.id else "", item.id, item.name, *_figures(item)) for item in listed],
    )
    click.echo("\n▸ this machine")


def _figures(profile: Profile) -> tuple[str, str, str]:
    """Memory, bandwidth and peak in the dtype that models compute in there."""
    peak = (
        f"{figures.amount(profile.peaks[profile.dtype].value, 'FLOP/s')} {profile.dtype}"
        if profile.dtype
        else ""
    )
    return (
        figures.size(profile.memory_bytes) if profile.memory_bytes else figures.UNKNOWN,
        figures.amount(profile.bandwidth.value, "B/s") if profile.bandwidth else figures.UNKNOWN,
        peak or figures.UNKNOWN,
    )


def _show(chosen: detect.Detection) -> None:
    profile = chosen.profile
    memory, bandwidth, _ = _figures(profile)
    rows = [
        ("id", profile.id),
        ("name", chosen.label),
        ("memory", memory),
        ("bandwidth", f"{bandwidth} ({profile.bandwidth.basis})" if profile.bandwidth else bandwidth),
        *(
            (f"peak {dtype}", f"{figures.amount(peak.value, 'FLOP/s')} ({peak.basis})")
            for dtype, peak in profile.peaks.items()
        ),
        ("power", f"{profile.watts:.0f} W" if profile.watts else figures.UNKNOWN),
        ("source", profile.source),
        ("runs on", f"{chosen.settings.device}, {chosen.settings.dtype}, {chosen.settings.threads} threads"),
        *(("note", note) for note in chosen.reasons),
    ]
    show("\n".join(f"{label:10} {value}" for label, value in rows))
