"""The hardware table as installed, and what a user's own files may do to it."""

import re
from pathlib import Path

import pytest

from profiles import catalogue
from profiles.catalogue import UnknownProfile

# SMs × boost clock × FLOP per clock and SM gives the dense peak back.
RECOMPUTED = [
    ("t4", "fp16", 1590, 1024),
    ("rtx-3060", "bf16", 1777, 512),
    ("rtx-3090", "bf16", 1695, 512),
    ("rtx-4060", "bf16", 2460, 512),
    ("rtx-4060-laptop", "bf16", 2370, 512),
    ("rtx-4070", "bf16", 2475, 512),
    ("rtx-4080", "bf16", 2505, 512),
    ("rtx-4090", "bf16", 2520, 512),
    ("rtx-5080", "bf16", 2617, 512),
    ("rtx-5090", "bf16", 2407, 512),
    ("a10", "bf16", 1695, 1024),
    ("l4", "bf16", 2040, 1024),
    ("l40s", "bf16", 2520, 1024),
    ("rtx-6000-ada", "bf16", 2505, 1024),
    ("a100-sxm-40gb", "bf16", 1410, 2048),
    ("a100-sxm-80gb", "bf16", 1410, 2048),
    ("h100-pcie", "bf16", 1620, 4096),
    ("h100-sxm", "bf16", 1830, 4096),
    ("h200-sxm", "bf16", 1830, 4096),
]


@pytest.mark.parametrize(("name", "dtype", "mhz", "per_clock"), RECOMPUTED)
def test_the_peaks_agree_with_what_their_clocks_make(name: str, dtype: str, mhz: int, per_clock: int) -> None:
    profile = catalogue.find(name)
    assert profile.sm_count is not None
    assert profile.peaks[dtype].value == pytest.approx(profile.sm_count * mhz * 1e6 * per_clock, rel=0.02)


def test_every_built_in_profile_says_what_its_figures_rest_on() -> None:
    profiles = catalogue.load()
    assert len({profile.id for profile in profiles}) == len(profiles) == 31
    for profile in profiles:
        listed = profile.as_object()
        assert listed["id"] and listed["name"] and listed["source"]
        if profile.vendor in {"generic", "apple"}:
            assert {peak.basis for peak in profile.peaks.values()} <= {"estimated"}


def test_a_profile_is_found_by_id_or_name_in_any_case_and_a_slip_gets_the_nearest() -> None:
    assert catalogue.find("H100-SXM").name == "NVIDIA H100 SXM"
    assert catalogue.find("nvidia geforce rtx 4090").id == "rtx-4090"
    with pytest.raises(UnknownProfile, match="did you mean rtx-4090"):
        catalogue.find("rtx4090")
    with pytest.raises(UnknownProfile, match="mull profiles"):
        catalogue.find("a toaster")


MINE = """
[[profile]]
id = "rtx-4090"
name = "My 4090, measured"
vendor = "nvidia"
kind = "gpu"
source = "my own runs"
bandwidth_gb_s = 941.5
bandwidth_basis = "measured"
"""


def test_a_users_file_replaces_a_built_in_profile_of_the_same_id(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    found = catalogue.find("rtx-4090", catalogue.load(tmp_path))
    assert found.bandwidth == catalogue.Figure(941.5e9, "measured")
    assert catalogue.load(tmp_path / "absent") == catalogue.load()


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("941.5", "fast", "not valid TOML"),
        ("[[profile]]", "[other]", r"no \[\[profile\]\] entries"),
        ("941.5", "-1", "bandwidth_gb_s has to be a positive number"),
        ("941.5", "nan", "bandwidth_gb_s has to be a positive number"),
        ("measured", "guessed", "bandwidth_basis is one of"),
        ("bandwidth_gb_s", "bandwith_gb_s", "perhaps bandwidth_gb_s"),
        ('"gpu"', '"tpu"', "kind is 'gpu' or 'cpu'"),
        ('"rtx-4090"', '"RTX 4090"', "an id has"),
        ('source = "my own runs"', "", "source has to be a line of text"),
        ("My 4090", r"\u001b[2J", "name has to be a line of text"),
        ("bandwidth_gb_s", "match = '('\nbandwidth_gb_s", "match is no regular expression"),
        ("bandwidth_gb_s", "tflops = { bf17 = 1 }\nbandwidth_gb_s", "tflops is a table"),
        (MINE, MINE + MINE, "two entries have the same id"),
    ],
)
def test_a_broken_users_file_is_one_warning_and_the_rest_still_loads(
    tmp_path: Path, old: str, new: str, cause: str
) -> None:
    assert old in MINE
    (tmp_path / "broken.toml").write_text(MINE.replace(old, new))
    (tmp_path / "good.toml").write_text(MINE.replace('"rtx-4090"', '"mine"'))
    warnings: list[str] = []
    loaded = catalogue.load(tmp_path, warn=warnings.append)
    assert [profile.id for profile in loaded] == [*(profile.id for profile in catalogue.load()), "mine"]
    assert len(warnings) == 1
    assert re.fullmatch(f"profile file 'broken.toml' is left out: .*{cause}.*", warnings[0])
