"""Accelerators that are not there: devices to compile for, from the name of their topology.

    devices = topologies.describe("v5p:2x2x2")     # eight TPUs of 95 GB
    devices = topologies.describe("h100:8")        # eight GPUs of 80 GB

The compilers come as Python packages and need no device: libtpu for TPUs, `jax[cuda12]` for GPUs.
What they say of memory is what a device will be asked for, to the layout of every array; a program
that no TPU of the topology has room for is refused as it would be there.
"""

import os
import re
from collections.abc import Sequence

import jax

from acestep_jax.training.overrides import ConfigError

_EXAMPLES = "v4:2x2x2, v5e:2x4, v5p:2x2x2, v6e:4x4 or h100:8"
# libtpu asks the machine what it is, and lets one process have it: of no interest here
_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# there is no GPU to time kernels on
_NO_TIMING = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
_H100 = """
  gpu_device_info {
    cuda_compute_capability { major: 9 }
    core_count: 132               clock_rate_ghz: 1.98          fpus_per_core: 128
    device_memory_size: 84929347584                             l2_cache_size: 52428800
    memory_bandwidth: 3352320000000
    threads_per_warp: 32          threads_per_block_limit: 1024 threads_per_core_limit: 2048
    registers_per_core_limit: 65536                             registers_per_block_limit: 65536
    shared_memory_per_core: 233472                              shared_memory_per_block: 49152
    shared_memory_per_block_optin: 232448
    block_dim_limit_x: 2147483647 block_dim_limit_y: 65535      block_dim_limit_z: 65535
  }
  platform_name: "CUDA"
  device_description_str: "NVIDIA H100 80GB HBM3"
  dnn_version_info { major: 9 minor: 7 }
  runtime_version { major: 12 minor: 8 patch: 0 }
"""
"""What XLA wants to know of a GPU (its GpuTargetConfigProto): the data sheet of an H100 SXM."""


def describe(name: str) -> Sequence[jax.Device]:
    """Gives the devices of a topology, to make a mesh of and to compile for; they run nothing.

    Args:
      name: generation and shape of TPUs, such as v5p:2x2x2; or h100 and how many, in one machine.

    Raises:
      ConfigError: if their compiler is not installed, or knows no such topology.
    """
    from jax.experimental import topologies

    gpus = re.fullmatch(r"h100:(\d+)", name)
    try:
        if gpus:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_NO_TIMING}".strip()
            return topologies.get_topology_desc(
                platform="cuda",
                topology_name=name,
                topology=f"1x1x{gpus[1]}",
                target_config=_H100,
            ).devices
        for variable, value in _LIBTPU.items():
            os.environ.setdefault(variable, value)
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology={name} cannot be compiled for ({error}); it takes {_EXAMPLES}, and their "
            "compiler: pip install libtpu for TPUs, jax[cuda12] for GPUs."
        ) from error
