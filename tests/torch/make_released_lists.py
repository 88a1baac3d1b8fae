"""Writes `tests/weights/released/*.json`: every tensor of the full-size releases, name and shape.

    python tests/torch/make_released_lists.py

The lists come from the original modules, built at full size on PyTorch's meta device (diffusers'
ports of the diffusion package and the autoencoder, transformers' Qwen3), renamed to the official
keys by the substitutions below. Nothing of acestep_jax is used, so that the lists can judge it.
"""

import json
import re
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.pipelines import ace_step

TARGET = Path(__file__).parents[1] / "weights" / "released"
ENCODERS_XL = dict(hidden_size=2048, intermediate_size=6144, num_attention_heads=16)
DIT_XL = dict(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=32,
    num_attention_heads=32,
    encoder_hidden_size=2048,
)
PLANNERS = {
    "planner_0p6b": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28),
    "planner_1p7b": dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28),
    "planner_4b": dict(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32
    ),
}
TO_OFFICIAL = (
    (r"\.to_([qkv])\.", r".\1_proj."),
    (r"\.to_out\.0\.", ".o_proj."),
    (r"\.norm_([qk])\.", r".\1_norm."),
    (r"^decoder\.(proj_in|proj_out)_conv\.", r"decoder.\1.1."),
)


def shapes(module: torch.nn.Module, prefix: str = "") -> dict[str, list[int]]:
    """Lists a module's stored tensors under their official names."""
    found = {}
    for key, tensor in module.state_dict().items():
        name = prefix + key
        for pattern, replacement in TO_OFFICIAL:
            name = re.sub(pattern, replacement, name)
        found[name] = list(tensor.shape)
    return found


def package(dit: dict, encoders: dict) -> dict[str, list[int]]:
    """Lists a diffusion package; the silence buffer is a file of its own in the release."""
    parts = (
        ("decoder.", diffusers.AceStepTransformer1DModel(**dit)),
        ("encoder.", ace_step.AceStepConditionEncoder(**encoders)),
        ("tokenizer.", ace_step.AceStepAudioTokenizer(**encoders)),
        ("detokenizer.", ace_step.AceStepAudioTokenDetokenizer(**encoders)),
    )
    found = {name: shape for prefix, part in parts for name, shape in shapes(part, prefix).items()}
    del found["encoder.silence_latent"]
    found["null_condition_emb"] = found.pop("encoder.null_condition_emb")
    return found


def qwen3(vocab_size: int, **sizes: int) -> dict[str, list[int]]:
    """Lists a Qwen3 without head."""
    defaults = dict(head_dim=128, num_attention_heads=16, num_key_value_heads=8)
    config = transformers.Qwen3Config(vocab_size=vocab_size, **(defaults | sizes))
    return shapes(transformers.Qwen3Model(config))


def main() -> None:
    """Builds every module and writes its list."""
    embedding = dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28)
    vae = dict(decoder_input_channels=64, downsampling_ratios=[2, 4, 4, 6, 10], sampling_rate=48000)
    with torch.device("meta"):
        lists = {
            "turbo": package({}, {}),
            "xl_turbo": package(DIT_XL, ENCODERS_XL),
            "vae": shapes(diffusers.AutoencoderOobleck(**vae)),
            "qwen3_embedding_0p6b": qwen3(151_669, **embedding),
            **{name: qwen3(217_204, **sizes) for name, sizes in PLANNERS.items()},
        }
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, found in lists.items():
        lines = ",\n".join(f"{json.dumps(key)}: {shape}" for key, shape in sorted(found.items()))
        (TARGET / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")
        print(name, len(found))


if __name__ == "__main__":
    main()
