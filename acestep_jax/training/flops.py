"""Floating-point operations of a step, and how fast the attached device could do them.

Counted are the products of a traced program, two operations a multiply-add: matrix products,
convolutions and fused attention, each as often as its loops run it, recomputation included. XLA's
own analysis is no help here: it counts the body of a loop once, and our layers are scanned.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

PEAKS: tuple[tuple[str, float], ...] = (
    (r"GB200", 2500e12),
    (r"B200", 2250e12),
    (r"H100 PCIe", 756.5e12),
    (r"H100 NVL", 835.5e12),
    (r"H100|H200|GH200", 989e12),
    (r"A100", 312e12),
    (r"L40S", 362e12),
    (r"\bL4\b", 121e12),
    (r"TPU ?7x", 2307e12 / 2),  # a device is one of the chip's two cores
    (r"TPU v6 lite|TPU v6e", 918e12),
    (r"TPU v5 lite|TPU v5e", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v4", 275e12),
)
"""Dense bfloat16 operations a second of a device, by pattern of its `device_kind`.

NVIDIA's data sheets state them with sparsity, which doubles them: H100 1,979 (SXM), 1,671 (NVL) and
1,513 (PCIe) TFLOP/s, L40S 733, L4 242, A100 624; a GPU of GB200 5,000 and of HGX B200 4,500.
Google's are in its pages of Cloud TPU versions (docs.cloud.google.com/tpu/docs/v6e and /tpu7x:
v5e 197, v5p 459, v6e 918, 7x 2,307 a chip). JAX's own table of TPUs agrees within rounding, and has
one device a chip but for 7x, whose two cores are two devices (jax.experimental.pallas.tpu).
All but the NVL's were looked up in November 2026."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What was computed, over all devices.

    Attributes:
      operations: floating-point operations of products.
      examples: songs.
      frames: latent frames, the tokens of this model; padding included.
    """

    operations: float = 0.0
    examples: int = 0
    frames: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.operations + other.operations,
            self.examples + other.examples,
            self.frames + other.frames,
        )

    def rates(self, seconds: float, num_devices: int, peak: float | None) -> dict[str, float]:
        """Divides by the time it took; what is not known is left out."""
        rates = {
            f"time/{name}_per_second": getattr(self, name) / seconds
            for name in ("examples", "frames")
            if getattr(self, name)
        }
        if self.operations:
            speed = self.operations / seconds / num_devices
            rates["time/tflops_per_device"] = speed / 1e12
            if peak:
                rates["time/share_of_peak"] = speed / peak
        return rates


def peak(device: jax.Device) -> float | None:
    """Gives a device's dense bfloat16 peak in operations a second; None for those not listed."""
    for pattern, rate in PEAKS:
        if re.search(pattern, device.device_kind):
            return rate
    return None


def count(function: Callable[..., Any], *args: Any) -> float:
    """Counts the operations of one call, over all devices.

    Loops of a length that depends on the data count once, branches as the longest: with either,
    the count is a bound.

    Args:
      function: pure; what `jax.jit` returns is traced once for this and the call together.
      *args: arrays or their shapes.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.startswith("dot_product_attention"):
        return _attention(equation)
    inner = [_count(jaxpr) for jaxpr in _inside(params)]
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Finds the programs that an operation runs, wherever it keeps them."""
    for value in params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            entry = getattr(entry, "jaxpr", entry)  # closed over constants, or open
            if hasattr(entry, "eqns"):
                yield entry


def _dot(equation: Any) -> float:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> float:
    """Counts every tap of every output; those that meet the zeros of a dilated input too."""
    kernel = equation.invars[1].aval.shape
    outputs, *_ = equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel) / kernel[outputs]  # inputs of a group and positions
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


def _attention(equation: Any) -> float:
    """Counts a fused kernel: two products forwards, five backwards (it recomputes the logits)."""
    (batch, length, heads, width), (_, keys, *_) = (x.aval.shape for x in equation.invars[:2])
    products = 5 if "bwd" in equation.primitive.name else 2
    return 2.0 * products * batch * length * keys * heads * width
