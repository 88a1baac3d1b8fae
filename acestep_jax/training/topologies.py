"""TPUs that are not there: devices to compile for, from the name of their topology.

    devices = topologies.describe("v5p:2x2x2")     # eight chips of 95 GB

The compiler of TPUs comes with the Python package libtpu and needs no TPU. What it says of memory
is what a TPU will be asked for, to the layout of every array; a program that does not fit is
refused as it would be there.
"""

import os
from collections.abc import Sequence

import jax

from acestep_jax.training.overrides import ConfigError

KIND = "tpu"
_EXAMPLES = "v4:2x2x2, v5e:2x4, v5p:2x2x2 or v6e:4x4"
# libtpu asks the machine what it is, and lets one process have it: of no interest here
_SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def describe(name: str) -> Sequence[jax.Device]:
    """Gives the devices of a topology, to make a mesh of and to compile for; they run nothing.

    Args:
      name: generation and shape, such as v5p:2x2x2.

    Raises:
      ConfigError: if libtpu is not installed, or knows no such topology.
    """
    from jax.experimental import topologies

    for variable, value in _SETTINGS.items():
        os.environ.setdefault(variable, value)
    try:
        return topologies.get_topology_desc(platform=KIND, topology_name=name).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology={name} cannot be compiled for ({error}); it takes the names of TPU "
            f"topologies, such as {_EXAMPLES}, and the package libtpu (pip install libtpu)."
        ) from error
