"""Our adapters in PEFT and in diffusers, and PEFT's here: same base, same adapter, same velocity.

Tolerance: that of the transformer itself, see `test_against_torch.py`.
"""

import itertools

import diffusers
import jax
import numpy as np
import peft
import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin

from acestep_jax import weights
from acestep_jax.nn import lora
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.lora import LoRA
from acestep_jax.ops import timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.weights import adapters
from tests.torch.test_against_torch import array, assert_close, tensor, their_package

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # theirs, not ours, to mend
]

NUM_FRAMES = 11
INPUTS = {
    "hidden_states": array(1, 2, NUM_FRAMES, 6),
    "timestep": np.array([0.9, 0.3], np.float32),
    "timestep_r": np.array([0.9, 0.3], np.float32),
    "encoder_hidden_states": array(3, 2, 9, 32),
    "context_latents": array(2, 2, NUM_FRAMES, 12),
}
SPECS = [LoRA(rank=3, alpha=7.0), LoRA(rank=2, alpha=4.0, targets=("self_attn.q_proj", "o_proj"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Where their transformer is saved, and ours with its weights."""
    folder = tmp_path_factory.mktemp("base")
    for name, module in their_package(num_layers=3).items():
        module.save_pretrained(folder / name)
    return folder, weights.load_model(folder)


@pytest.fixture(scope="module")
def trained(base):
    """Two adapters with no zero in them."""
    _, model = base
    made = []
    for seed, spec in enumerate(SPECS):
        tree = weights.convert.shapes(adapters.adapter_entries(model.config, spec))
        leaves, shape = jax.tree.flatten(tree)
        params = shape.unflatten([0.3 * array((seed, i), *x.shape) for i, x in enumerate(leaves)])
        made.append(adapters.Adapter(spec, params))
    return made


def ours(model, collection):
    given = lora.WithAdapters(model.params["dit"], collection)
    return lora.Adapted(DiT(model.config)).apply(
        {"params": given},
        INPUTS["hidden_states"],
        INPUTS["timestep"],
        INPUTS["context_latents"],
        INPUTS["encoder_hidden_states"],
    )


def transformer(base):
    folder, _ = base
    return diffusers.AceStepTransformer1DModel.from_pretrained(folder / "transformer").eval()


def theirs(module):
    with torch.no_grad():
        return module(**{k: tensor(v) for k, v in INPUTS.items()}, return_dict=False)[0]


def test_adapters_change_the_velocity_at_all(base, trained):
    _, model = base
    plain, adapted = ours(model, {}), ours(model, trained[0].collection())
    assert np.linalg.norm(plain - adapted) > 0.05 * np.linalg.norm(plain)


@pytest.mark.parametrize("which", [0, 1])
def test_diffusers_transformer_loads_ours(base, trained, which, tmp_path):
    _, model = base
    adapters.save_adapter(tmp_path, trained[which], model.config, layout="diffusers")
    module = transformer(base)
    module.load_lora_adapter(tmp_path, use_safetensors=True)
    assert_close(ours(model, trained[which].collection()), theirs(module))


def test_diffusers_samples_are_ours(base, trained, tmp_path):
    """Four Euler steps of the shift-3 grid, the adapter on."""
    _, model = base
    adapters.save_adapter(tmp_path, trained[0], model.config, layout="diffusers")
    module = transformer(base)
    module.load_lora_adapter(tmp_path, use_safetensors=True)
    given = lora.WithAdapters(model.params["dit"], trained[0].collection())
    noise, times = INPUTS["hidden_states"], np.asarray(timesteps.time_grid(4, 3.0))
    tokens, context = INPUTS["encoder_hidden_states"], INPUTS["context_latents"]
    field = sampler.conditional_velocity(lora.Adapted(DiT(model.config)), given, tokens, context)
    sample = jax.jit(lambda x: flow.integrate(field, x, times))(noise)
    x_t = tensor(noise)
    for t, t_next in itertools.pairwise(times):
        at = torch.full((2,), float(t))
        inputs = {k: tensor(v) for k, v in INPUTS.items()}
        inputs |= {"hidden_states": x_t, "timestep": at, "timestep_r": at}
        with torch.no_grad():
            x_t = x_t + float(t_next - t) * module(**inputs, return_dict=False)[0]
    assert_close(sample, x_t)


def test_diffusers_pipelines_load_ours_in_either_naming(base, trained, tmp_path):
    _, model = base
    for layout in adapters.LAYOUTS:
        adapters.save_adapter(tmp_path / layout, trained[0], model.config, layout=layout)
        module = transformer(base)
        state, metadata = AceStepLoraLoaderMixin.lora_state_dict(
            tmp_path / layout, return_lora_metadata=True
        )
        AceStepLoraLoaderMixin.load_lora_into_transformer(state, module, metadata=metadata)
        assert_close(ours(model, trained[0].collection()), theirs(module))


def test_peft_loads_ours(base, trained, tmp_path):
    _, model = base
    adapters.save_adapter(tmp_path, trained[1], model.config, layout="diffusers")
    module = peft.PeftModel.from_pretrained(transformer(base), tmp_path)
    assert_close(ours(model, trained[1].collection()), theirs(module.base_model.model))


def test_two_adapters_with_weights_are_those_of_diffusers(base, trained, tmp_path):
    _, model = base
    module = transformer(base)
    for name, adapter in zip("ab", trained, strict=True):
        adapters.save_adapter(tmp_path / name, adapter, model.config, layout="diffusers")
        module.load_lora_adapter(tmp_path / name, adapter_name=name, use_safetensors=True)
    module.set_adapters(["a", "b"], [0.5, -1.5])
    assert_close(ours(model, adapters.combine(trained, [0.5, -1.5])), theirs(module))


@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_what_peft_saves(base, rslora, tmp_path):
    _, model = base
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_v", "to_out.0"], use_rslora=rslora
    )
    module = peft.get_peft_model(transformer(base), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    module.eval().save_pretrained(tmp_path / "adapter")
    adapter = adapters.load_adapter(tmp_path, model.config)
    assert adapter.spec.scale == pytest.approx(6 / 4**0.5 if rslora else 6 / 4)
    assert adapter.spec.targets == ("q_proj", "v_proj", "o_proj")
    assert_close(ours(model, adapter.collection()), theirs(module.base_model.model))


@pytest.mark.parametrize("decompose", [False, True])
def test_we_load_the_kronecker_adapters_that_peft_saves(base, decompose, tmp_path):
    _, model = base
    config = peft.LoKrConfig(
        r=2, alpha=3, target_modules=["to_q", "to_out.0"], decompose_both=decompose
    )
    module = peft.get_peft_model(transformer(base), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lokr_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    module.eval().save_pretrained(tmp_path)
    adapter = weights.load_any_adapter(tmp_path, model.config)
    merged = lora.add_deltas(model.params["dit"], adapter.deltas()).params
    velocity = DiT(model.config).apply(
        {"params": merged},
        INPUTS["hidden_states"],
        INPUTS["timestep"],
        INPUTS["context_latents"],
        INPUTS["encoder_hidden_states"],
    )
    assert np.linalg.norm(velocity - ours(model, {})) > 0.05 * np.linalg.norm(velocity)
    assert_close(velocity, theirs(module.base_model.model))
