"""Detection, with a driver that is absent, lies or breaks, and on the machine the tests run on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from profiles.detect import Detection, detect
from profiles.machine import Cpu, read_cpu

GIB = 2**30
LAPTOP = Cpu("Some CPU @ 3.0 GHz", cores=4, clock_hz=3e9, flags=frozenset({"avx2"}), memory_bytes=16 * GIB)


class NVMLError(Exception):
    """What the binding raises."""


class FakeNvml:
    """As much of the pynvml module as detection asks, over one or more devices given as dictionaries."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *devices: dict, broken: tuple[str, ...] = ()) -> None:
        self.devices, self.broken, self.open = devices, broken, 0

    def __getattribute__(self, name: str):
        if name.startswith("nvml") and name in self.broken:

            def fail(*_: object) -> None:
                raise NVMLError(f"{name}:\n  Unknown Error")

            return fail
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.10"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:
        if index >= len(self.devices):
            raise NVMLError("Invalid Argument")
        return self.devices[index]

    def nvmlDeviceGetMigMode(self, handle: dict) -> list[int]:
        if "slice" not in handle:
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict, index: int) -> dict:
        assert index == 0
        return handle["slice"]

    def nvmlDeviceIsMigDeviceHandle(self, handle: dict) -> bool:
        return handle.get("is_slice", False)

    def nvmlDeviceGetName(self, handle: dict) -> str | bytes:
        return handle["name"]

    def nvmlDeviceGetUUID(self, handle: dict) -> str:
        return handle.get("uuid", "GPU-0")

    def nvmlDeviceGetMemoryInfo(self, handle: dict) -> SimpleNamespace:
        return SimpleNamespace(total=round(handle["gib"] * GIB))

    def nvmlDeviceGetCudaComputeCapability(self, handle: dict) -> tuple[int, int]:
        return handle["capability"]

    def nvmlDeviceGetNumGpuCores(self, handle: dict) -> int:
        return handle["cores"]

    def nvmlDeviceGetMemoryBusWidth(self, handle: dict) -> int:
        return handle["bits"]

    def nvmlDeviceGetMaxClockInfo(self, handle: dict, clock: int) -> int:
        return handle["mhz"] if clock == self.NVML_CLOCK_SM else handle["memory_mhz"]

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: dict) -> int:
        return handle["watts"] * 1000


def gpu(name: str | bytes, gib: float, sm: int, capability: tuple[int, int], **more: object) -> dict:
    cores = sm * (64 if capability < (8, 6) else 128)
    clocks = {"bits": 384, "memory_mhz": 9501, "mhz": 2000, "watts": 300}
    return {"name": name, "gib": gib, "cores": cores, "capability": capability, **clocks, **more}


RTX_4090 = gpu("NVIDIA GeForce RTX 4090", 23.99, 128, (8, 9))


def on(*devices: dict, broken: tuple[str, ...] = (), **more: object) -> Detection:
    nvml = FakeNvml(*devices, broken=broken)
    found = detect(nvml=nvml, cpu=LAPTOP, **more)
    assert nvml.open == 0
    return found


@pytest.fixture(autouse=True)
def every_device_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (gpu("Tesla T4", 15.0, 40, (7, 5)), "t4"),
        (gpu("NVIDIA L4", 22.5, 58, (8, 9)), "l4"),
        (gpu("NVIDIA L40S", 44.99, 142, (8, 9)), "l40s"),
        (gpu("NVIDIA A10", 22.49, 72, (8, 6)), "a10"),
        (gpu("NVIDIA A100-SXM4-40GB", 40.0, 108, (8, 0)), "a100-sxm-40gb"),
        (gpu("NVIDIA H100 PCIe", 79.65, 114, (9, 0)), "h100-pcie"),
        (gpu("NVIDIA H100 80GB HBM3", 79.65, 132, (9, 0)), "h100-sxm"),
        (gpu("NVIDIA H200", 140.4, 132, (9, 0)), "h200-sxm"),
        (gpu("NVIDIA RTX 6000 Ada Generation", 47.99, 142, (8, 9)), "rtx-6000-ada"),
        (gpu("NVIDIA GeForce RTX 4060", 8.0, 24, (8, 9)), "rtx-4060"),
        (gpu("NVIDIA GeForce RTX 4060 Laptop GPU", 8.0, 24, (8, 9)), "rtx-4060-laptop"),
        (gpu(b"GeForce RTX 3090", 24.0, 82, (8, 6)), "rtx-3090"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_known_gpu_is_recognized_by_its_whole_name(device: dict, expected: str) -> None:
    found = on(device)
    assert (found.profile.id, found.how, found.simulated) == (expected, "pattern", False)
    assert found.settings.device == "cuda:0"


@pytest.mark.parametrize(
    "device",
    [
        gpu("NVIDIA T400", 2.0, 6, (7, 5)),
        gpu("NVIDIA T400 4GB", 4.0, 6, (7, 5)),
        gpu("NVIDIA L40", 44.99, 142, (8, 9)),
        gpu("NVIDIA A10G", 22.5, 80, (8, 6)),
        gpu("NVIDIA H100 NVL", 93.6, 132, (9, 0)),
        gpu("NVIDIA H200 NVL", 140.4, 132, (9, 0)),
        gpu("NVIDIA GeForce RTX 3060", 8.0, 28, (8, 6)),  # the name of the 12 GB part
        gpu("NVIDIA GeForce RTX 4080", 16.0, 60, (8, 9)),  # other multiprocessors
        gpu("NVIDIA GeForce RTX 9999", 64.0, 300, (12, 0)),
    ],
    ids=lambda device: device["name"],
)
def test_a_gpu_that_only_resembles_one_is_estimated_from_its_own_clocks(device: dict) -> None:
    found = on(device)
    assert (found.profile.id, found.how) == ("gpu", "formula")
    assert found.profile.name == device["name"]
    assert found.label.endswith("(estimated)")
    bases = {figure.basis for figure in (found.profile.bandwidth, *found.profile.peaks.values()) if figure}
    assert bases == {"estimated"}
    assert any("not in the catalogue" in reason for reason in found.reasons)


def test_the_formula_gives_a_known_gpu_its_data_sheet_back() -> None:
    real = gpu("NVIDIA Renamed H100", 80.0, 132, (9, 0), bits=5120, memory_mhz=2619, mhz=1830)
    profile = on(real).profile
    assert profile.bandwidth is not None
    assert profile.bandwidth.value == pytest.approx(3352e9, rel=0.001)
    assert profile.peaks["bf16"].value == pytest.approx(989e12, rel=0.001)


def test_before_compute_capability_8_the_dtype_is_fp16() -> None:
    assert on(gpu("Tesla T4", 15.0, 40, (7, 5))).settings.dtype == "fp16"
    assert on(gpu("NVIDIA GeForce GTX 1650", 4.0, 14, (7, 5))).profile.peaks == {}  # no tensor cores
    assert on(RTX_4090).settings.dtype == "bf16"


def test_a_slice_of_a_gpu_is_not_taken_for_the_whole() -> None:
    part = gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.75, 14, (8, 0), is_slice=True)
    found = on(gpu("NVIDIA A100-SXM4-40GB", 40.0, 108, (8, 0), slice=part))
    assert (found.profile.id, found.how) == ("gpu", "generic")
    assert found.profile.memory_bytes == round(4.75 * GIB)
    assert (found.profile.bandwidth, found.profile.peaks, found.profile.watts) == (None, {}, None)


def test_without_a_driver_the_processor_is_the_device_and_the_cause_is_told() -> None:
    found = on(RTX_4090, broken=("nvmlInit",))
    assert found.settings.device == "cpu"
    assert found.reasons[0] == "no NVIDIA driver answers: nvmlInit: Unknown Error"


@pytest.mark.parametrize(
    "call", [name for name in vars(FakeNvml) if name.startswith("nvml") and name != "nvmlInit"]
)
def test_a_driver_that_fails_in_the_middle_is_a_reason_and_never_an_exception(call: str) -> None:
    nvml = FakeNvml(RTX_4090, broken=(call,))
    found = detect(nvml=nvml, cpu=LAPTOP, visible="GPU-0")
    assert all("\n" not in reason for reason in found.reasons)
    if call in {"nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"}:
        assert found.how == "formula"  # unconfirmed, so not called a 4090 by the catalogue
        assert any(call in reason for reason in found.reasons)


def test_a_driver_without_any_answer_leaves_a_generic_gpu() -> None:
    questions = tuple(
        name for name in vars(FakeNvml) if name.startswith("nvmlDeviceGet") and "Handle" not in name
    )
    found = on(RTX_4090, broken=questions)
    assert (found.profile.name, found.how, found.label) == ("NVIDIA GPU", "generic", "NVIDIA GPU (generic)")


TWO = (RTX_4090, gpu("NVIDIA L4", 22.5, 58, (8, 9), uuid="GPU-beef-02"))


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "auto", "rtx-4090"),
        (None, "cuda:1", "l4"),
        ("1", "auto", "l4"),
        ("1,0", "cuda:1", "rtx-4090"),
        ("GPU-beef", "cuda", "l4"),
        ("", "auto", "cpu"),
        ("-1", "auto", "cpu"),
        ("1", "cuda:1", "cpu"),
        ("GPU-none", "auto", "cpu"),
        ("1", "cpu", "cpu"),
    ],
)
def test_the_devices_are_numbered_as_cuda_numbers_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, expected: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = on(*TWO, device=device)
    assert found.profile.id == expected
    if expected == "cpu" and device != "cpu":
        assert found.reasons[0].startswith("GPU ")


def test_a_device_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpu:0'; use cpu, cuda or cuda:N"):
        detect(device="tpu:0")


def test_a_chosen_profile_that_is_not_this_machine_is_a_prediction_and_the_settings_stay_ours() -> None:
    found = on(RTX_4090, profile="l4")
    assert (found.profile.id, found.how, found.simulated) == ("l4", "chosen", True)
    assert found.label == "NVIDIA L4 (predicted)"
    assert found.settings == on(RTX_4090).settings
    assert any("predictions" in reason for reason in found.reasons)


def test_choosing_what_is_there_anyway_is_no_prediction(tmp_path: Path) -> None:
    assert on(RTX_4090, profile="rtx-4090") == on(RTX_4090)
    (tmp_path / "mine.toml").write_text(
        '[[profile]]\nid = "mine"\nname = "Mine"\nvendor = "nvidia"\nkind = "gpu"\nsource = "measured"\n'
        "match = 'NVIDIA GeForce RTX 4090'\nmemory_gib = 24\n"
        '[[profile]]\nid = "my-cpu"\nname = "My CPU"\nvendor = "x"\nkind = "cpu"\nsource = "measured"\n'
        "match = 'Some CPU.*'\n"
    )
    assert on(RTX_4090, user_dir=tmp_path).profile.id == "mine"
    assert not on(RTX_4090, user_dir=tmp_path, profile="rtx-4090").simulated
    assert on(user_dir=tmp_path).profile.id == "my-cpu"


@pytest.mark.parametrize(
    ("flags", "dtype", "peaks"),
    [
        ({"avx2"}, "fp32", {"fp32": 384e9}),
        ({"avx2", "avx512f"}, "fp32", {"fp32": 768e9}),
        ({"avx2", "avx512f", "avx512_bf16"}, "bf16", {"fp32": 768e9, "bf16": 1536e9}),
        ({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, "bf16", {"fp32": 768e9, "bf16": 12288e9}),
        ({"asimd"}, "fp32", {}),
    ],
)
def test_a_processors_dtype_and_peak_follow_from_its_instruction_sets(
    flags: set[str], dtype: str, peaks: dict[str, float]
) -> None:
    cpu = Cpu("A CPU", cores=4, clock_hz=3e9, flags=frozenset(flags), memory_bytes=GIB)
    found = detect(device="cpu", cpu=cpu)
    assert (found.settings.dtype, found.settings.threads) == (dtype, 4)
    assert {key: figure.value for key, figure in found.profile.peaks.items()} == peaks
    assert {figure.basis for figure in found.profile.peaks.values()} <= {"estimated"}
    assert found.how == ("formula" if peaks else "generic")
    assert any("memory bandwidth assumed" in reason for reason in found.reasons)


def test_this_machine_is_detected_for_real_without_loading_torch() -> None:
    cpu = read_cpu()
    assert 1 <= cpu.cores <= (os.cpu_count() or 1)
    assert cpu.memory_bytes == psutil.virtual_memory().total
    script = (
        "import json, sys; from profiles.detect import detect; from profiles import costs; found = detect();"
        "assert not {'torch', 'transformers'} & set(sys.modules); print(json.dumps(found.as_object()))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert found["id"] and found["name"]
    assert found["settings"]["threads"] == cpu.cores
    assert answer.stderr == ""
