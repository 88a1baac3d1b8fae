"""Released checkpoints to parameter trees and back: loading, export, and the table of names."""

from acestep_jax.weights.adapters import Adapter, load_adapter, save_adapter
from acestep_jax.weights.bundle import save_pipeline
from acestep_jax.weights.checkpoint import LAYOUTS, Model, Network, Source
from acestep_jax.weights.hub import resolve
from acestep_jax.weights.load import load_model, load_qwen3, load_vae
from acestep_jax.weights.lokr import Kronecker, load_kronecker
from acestep_jax.weights.lokr import load_any as load_any_adapter
from acestep_jax.weights.save import save_model, save_qwen3, save_vae
from acestep_jax.weights.tensorfile import CheckpointError

__all__ = [
    "LAYOUTS",
    "Adapter",
    "CheckpointError",
    "Kronecker",
    "Model",
    "Network",
    "Source",
    "load_adapter",
    "load_any_adapter",
    "load_kronecker",
    "load_model",
    "load_qwen3",
    "load_vae",
    "resolve",
    "save_adapter",
    "save_model",
    "save_pipeline",
    "save_qwen3",
    "save_vae",
]
