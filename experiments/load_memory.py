"""How much host memory, and how long, does loading a full-size checkpoint take?

    python -m experiments.load_memory [--preset turbo] [--stored bfloat16] [--dtype float32]

Writes a synthetic checkpoint of a preset's full size to a temporary folder (4.8 GB for the 2B
models in bfloat16), loads it in a process of its own and prints one JSON line. Expected: a peak of
the parameters themselves, plus about one stacked leaf, whatever the file holds; on an accelerator
the parameters leave the host, and the leaf and one tensor are all that remains.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from acestep_jax import weights
from acestep_jax.nn.config import MODELS
from acestep_jax.weights import configs, names, tensorfile, torchfile
from acestep_jax.weights.tensorfile import Outgoing

_PERIOD = 1_000_003  # values before they repeat: a prime, so that no two rows are alike


def write_synthetic(folder: Path, preset: str, stored: str) -> None:
    """Writes a checkpoint of a preset with weights that repeat a normal sample."""
    config, kind = MODELS[preset], tensorfile.dtype_name(stored)
    sample = np.random.default_rng(0).standard_normal(_PERIOD).astype(tensorfile.DTYPES[kind])
    tensors = {
        entry.name: Outgoing(kind, entry.shape, lambda shape=entry.shape: np.resize(sample, shape))
        for entry in names.model_entries(config)
    }
    tensorfile.write_files(folder, "model", tensors)
    silence = np.zeros((1, config.audio_acoustic_hidden_dim, 15_000), np.float32)
    torchfile.save_tensor(folder / "silence_latent.pt", silence)
    configs.write_json(folder / "config.json", configs.model_config_to_json(config))


def _peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts kilobytes


def measure(folder: str, dtype: str, results: multiprocessing.Queue) -> None:
    """Loads a folder and reports seconds, peak memory and the size of what was loaded."""
    jax.devices()  # the backend's own memory belongs to the baseline
    baseline, start = _peak_gigabytes(), time.perf_counter()
    model = weights.load_model(folder, dtype=dtype)
    leaves = jax.tree.leaves(jax.block_until_ready(model.params))
    results.put(
        {
            "seconds": round(time.perf_counter() - start, 1),
            "parameters_gb": round(sum(leaf.nbytes for leaf in leaves) / 1e9, 3),
            "largest_leaf_gb": round(max(leaf.nbytes for leaf in leaves) / 1e9, 3),
            "baseline_gb": round(baseline, 3),
            "peak_gb": round(_peak_gigabytes(), 3),
        }
    )


def main() -> None:
    """Parses the command line, measures in a fresh process and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="turbo", choices=sorted(MODELS))
    parser.add_argument("--stored", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), arguments.preset, arguments.stored)
        context = multiprocessing.get_context("spawn")  # a process that has allocated nothing yet
        results = context.Queue()
        process = context.Process(target=measure, args=(folder, arguments.dtype, results))
        process.start()
        process.join()
        print(json.dumps(vars(arguments) | results.get(timeout=60)))


if __name__ == "__main__":
    main()
