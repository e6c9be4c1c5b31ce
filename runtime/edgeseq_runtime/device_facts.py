"""The figures a device profile may hold. Each group says where its figures are from; one without a source stays out."""

from __future__ import annotations

import msgspec


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures from one source: a page, a file, or what was measured how."""

    source: str


class Chip(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What code is compiled for."""

    soc: str | None = None  # of a Jetson module: "tegra234"
    compute_capability: str  # "8.7"


class Memory(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where weights and activations are. A Jetson module's CPU and GPU share it."""

    gb: float
    type: str | None = None
    bandwidth_gb_s: float | None = None  # 1e9 bytes a second


class Peak(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most floating-point operations a second, in 1e12, outside tensor cores; a multiply-add counts as two."""

    fp32_tflops: float | None = None
    fp16_tflops: float | None = None


class Int8(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most 8-bit operations a second, in 1e12, tensor cores and deep-learning accelerators included.

    `sparse` counts half of the products as skipped. `tops` is where the source says neither.
    """

    tops: float | None = None
    tops_at_10_w: float | None = None
    dense_tops: float | None = None
    sparse_tops: float | None = None
    gpu_sparse_tops: float | None = None
    dla_sparse_tops: float | None = None


class Gpu(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the GPU is made of."""

    sm_count: int | None = None
    tensor_cores: int | None = None
    l2_mb: float | None = None  # 1e6 bytes, to be on the safe side; makers mean 2**20


class Power(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it may draw."""

    tdp_w: float


class PowerModes(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a board can be set to (`nvpmodel`)."""

    range_w: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    int8_sparse_tops: tuple[float, ...] = ()  # of the module in each mode


class Cpu(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor, and what `qemu-aarch64 -cpu` calls it."""

    cores: int | None = None
    arch: str | None = None
    features: tuple[str, ...] = ()  # as /proc/cpuinfo names them
    qemu_cpu: str | None = None


class Dla(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Deep-learning accelerators beside the GPU."""

    count: int


class Releases(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JetPack releases that run on a module, oldest first."""

    releases: tuple[str, ...]


class Identity(Facts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By what the device is recognised."""

    modules: tuple[str, ...] = ()  # part numbers in the device tree's `compatible`: "p3767-0003"
    models: tuple[str, ...] = ()  # in the device tree's `model`, or the whole name that the driver gives a GPU
