"""Tiny random networks of diffusers and transformers beside ours: same weights, same numbers.

Both ways: what they save we load, what we save they load. Tolerance: float32 on both sides, through
a few layers of different summation order, and the sines of 1000 t, which amplify a last-place
difference of their frequencies. Measured: 2.1e-5 of the output's norm for the DiT, 4e-6 elsewhere.
"""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines import ace_step

from acestep_jax import weights
from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import ModelConfig, Qwen3Config, VAEConfig
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.nn.vae import VAE
from acestep_jax.weights import convert, names

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # theirs, not ours, to mend
]

RELATIVE = 5e-5
ENCODER = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1,
               head_dim=16, sliding_window=3)  # fmt: skip
CLASSES = {
    "transformer": diffusers.AceStepTransformer1DModel,
    "condition_encoder": ace_step.AceStepConditionEncoder,
    "audio_tokenizer": ace_step.AceStepAudioTokenizer,
    "audio_token_detokenizer": ace_step.AceStepAudioTokenDetokenizer,
}


def assert_close(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= RELATIVE * np.linalg.norm(theirs)


def array(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(values):
    return torch.from_numpy(np.array(values))


def randomize(module, seed=0):
    """Draws weights of a size at which every part of a network matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = 0.2 * torch.randn(parameter.shape, generator=generator)
            gain = name.endswith(("norm.weight", "layernorm.weight", "norm_q.weight",
                                  "norm_k.weight", "norm_out.weight", "weight_g"))  # fmt: skip
            parameter.copy_(1 + draw if gain else draw)
    return module.eval()


def their_package(num_layers=3, xl=False):
    """Builds diffusers' four modules; `xl` gives the DiT sizes of its own."""
    dit = dict(ENCODER, num_hidden_layers=num_layers, in_channels=18, audio_acoustic_hidden_dim=6)
    if xl:
        dit |= dict(hidden_size=40, intermediate_size=56, num_attention_heads=4,
                    num_key_value_heads=2, encoder_hidden_size=32)  # fmt: skip
    condition = dict(ENCODER, text_hidden_dim=24, timbre_hidden_dim=6,
                     num_lyric_encoder_hidden_layers=3,
                     num_timbre_encoder_hidden_layers=2)  # fmt: skip
    codes = dict(ENCODER, audio_acoustic_hidden_dim=6)
    modules = {
        "transformer": CLASSES["transformer"](**dit),
        "condition_encoder": CLASSES["condition_encoder"](**condition),
        "audio_tokenizer": CLASSES["audio_tokenizer"](
            **codes, fsq_dim=32, fsq_input_levels=[8, 8, 8, 5, 5, 5]
        ),
        "audio_token_detokenizer": CLASSES["audio_token_detokenizer"](**codes),
    }
    modules = {name: randomize(module, i) for i, (name, module) in enumerate(modules.items())}
    encoder = modules["condition_encoder"]
    encoder.register_buffer("silence_latent", tensor(array(9, 1, 15_000, 6)))
    return modules


@pytest.fixture(scope="module", params=["2b", "2b_even", "xl"])
def package(request, tmp_path_factory):
    """Their modules, and ours with what theirs saved."""
    num_layers = 4 if request.param == "2b_even" else 3
    theirs = their_package(num_layers, xl=request.param == "xl")
    folder = tmp_path_factory.mktemp(request.param)
    for name, module in theirs.items():
        module.save_pretrained(folder / name)
    return theirs, weights.load_model(folder)


@pytest.fixture(scope="module")
def exported(package, tmp_path_factory):
    """Their modules again, loaded from what we exported."""
    folder = tmp_path_factory.mktemp("exported")
    weights.save_model(folder, package[1], layout="diffusers")
    return {name: load.from_pretrained(folder / name).eval() for name, load in CLASSES.items()}


@pytest.mark.parametrize("num_frames", [17, 20])
def test_the_dit(package, exported, num_frames):
    theirs, model = package
    x_t, context, tokens = (
        array(1, 2, num_frames, 6),
        array(2, 2, num_frames, 12),
        array(3, 2, 9, 32),
    )
    t, r = np.array([0.9, 0.3], np.float32), np.array([0.9, 0.1], np.float32)
    ours = DiT(model.config).apply(
        {"params": model.params["dit"]}, x_t, t, context, tokens, r=jnp.asarray(r)
    )
    for module in (theirs["transformer"], exported["transformer"]):
        with torch.no_grad():
            velocity = module(
                hidden_states=tensor(x_t),
                timestep=tensor(t),
                timestep_r=tensor(r),
                encoder_hidden_states=tensor(tokens),
                context_latents=tensor(context),
                return_dict=False,
            )[0]
        assert_close(ours, velocity)


def test_the_condition_encoder(package, exported):
    theirs, model = package
    text, lyric, timbre = array(1, 2, 5, 24), array(2, 2, 9, 24), array(3, 3, 7, 6)
    text_mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    lyric_mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
    owner = np.array([0, 1, 1], np.int32)
    # diffusers 0.42.1 leaves out the token that XL's timbre encoder pools, so we do here
    config = dataclasses.replace(model.config, prepend_timbre_token=False)
    tokens, mask = ConditionEncoder(config).apply(
        {"params": model.params["condition_encoder"]},
        text, text_mask, lyric, lyric_mask, timbre, owner, 2,
    )  # fmt: skip
    for module in (theirs["condition_encoder"], exported["condition_encoder"]):
        with torch.no_grad():
            their_tokens, their_mask = module(
                tensor(text), tensor(text_mask), tensor(lyric), tensor(lyric_mask),
                tensor(timbre), tensor(owner.astype(np.int64)),
            )  # fmt: skip
        assert_close(tokens, their_tokens)
        np.testing.assert_array_equal(mask, their_mask.numpy().astype(bool))


def test_the_tokenizer_and_the_detokenizer(package, exported):
    theirs, model = package
    latents = array(1, 2, 25, 6)
    quantized, codes = AudioTokenizer(model.config).apply(
        {"params": model.params["tokenizer"]}, latents, model.silence_latent
    )
    hints = Detokenizer(model.config).apply({"params": model.params["detokenizer"]}, quantized)
    for modules in (theirs, exported):
        with torch.no_grad():
            windows = tensor(latents).reshape(2, 5, 5, 6)
            their_quantized, their_codes = modules["audio_tokenizer"](windows)
            their_hints = modules["audio_token_detokenizer"](their_quantized)
        np.testing.assert_array_equal(codes, their_codes.numpy().reshape(2, 5))
        assert_close(quantized, their_quantized)
        assert_close(hints, their_hints)


def test_silence_and_null_condition_travel_both_ways(package, exported):
    theirs, model = package
    for module in (theirs["condition_encoder"], exported["condition_encoder"]):
        np.testing.assert_array_equal(model.silence_latent, module.silence_latent.numpy())
        null = module.null_condition_emb.detach().numpy()
        np.testing.assert_array_equal(model.params["null_condition"], null)


SMALL_VAE = dict(encoder_hidden_size=12, decoder_channels=4, decoder_input_channels=6,
                 downsampling_ratios=[2, 3, 4], channel_multiples=[1, 2, 3],
                 audio_channels=2, sampling_rate=48_000)  # fmt: skip


def test_the_autoencoder(tmp_path):
    theirs = randomize(diffusers.AutoencoderOobleck(**SMALL_VAE))
    theirs.save_pretrained(tmp_path / "theirs")
    vae = weights.load_vae(tmp_path / "theirs")
    weights.save_vae(tmp_path / "ours", vae)
    again = diffusers.AutoencoderOobleck.from_pretrained(tmp_path / "ours").eval()
    audio, latents = array(1, 2, 125, 2), array(2, 2, 7, 6)
    module, variables = VAE(vae.config), {"params": vae.params}
    posterior = module.apply(variables, audio, method="encode")
    decoded = module.apply(variables, latents, method="decode")
    for oobleck in (theirs, again):
        with torch.no_grad():
            their_posterior = oobleck.encode(tensor(audio.swapaxes(1, 2))).latent_dist
            their_audio = oobleck.decode(tensor(latents.swapaxes(1, 2))).sample
        assert_close(posterior.mean.swapaxes(1, 2), their_posterior.mean)
        assert_close(posterior.std.swapaxes(1, 2), their_posterior.std)
        assert_close(decoded.swapaxes(1, 2), their_audio)


SMALL_QWEN3 = dict(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                   num_attention_heads=4, num_key_value_heads=2, head_dim=16)  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_the_language_model(tied, tmp_path):
    config = transformers.Qwen3Config(**SMALL_QWEN3, tie_word_embeddings=tied, rope_theta=50_000.0)
    theirs = randomize(transformers.Qwen3ForCausalLM(config))
    theirs.save_pretrained(tmp_path / "theirs")
    planner = weights.load_qwen3(tmp_path / "theirs")
    assert (planner.source.prefix, planner.config.rope_theta) == ("model.", 50_000.0)
    weights.save_qwen3(tmp_path / "ours", planner)
    again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens = np.random.default_rng(0).integers(0, 50, (2, 11))
    module, variables = Qwen3(planner.config), {"params": planner.params}
    logits = module.apply(variables, tokens, method="score")
    for model in (theirs, again):
        with torch.no_grad():
            assert_close(logits, model(tensor(tokens)).logits)


def test_the_text_encoder(tmp_path):
    config = transformers.Qwen3Config(**SMALL_QWEN3, rope_theta=50_000.0)
    theirs = randomize(transformers.Qwen3Model(config))
    theirs.save_pretrained(tmp_path / "theirs")
    encoder = weights.load_qwen3(tmp_path / "theirs")
    weights.save_qwen3(tmp_path / "ours", encoder)
    again = transformers.Qwen3Model.from_pretrained(tmp_path / "ours").eval()
    tokens = np.random.default_rng(0).integers(0, 50, (2, 11))
    hidden = Qwen3(encoder.config).apply({"params": encoder.params}, tokens)
    for model in (theirs, again):
        with torch.no_grad():
            assert_close(hidden, model(tensor(tokens)).last_hidden_state)


def drawn(entries):
    """Draws parameters of our own for a list of entries."""
    leaves, tree = jax.tree.flatten(convert.shapes(entries))
    return tree.unflatten([0.2 * array(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def test_configurations_that_we_write_first_are_accepted(tmp_path):
    """Nothing here was ever stored: our own files must hold all that their loaders need."""
    sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2,
                 num_key_value_heads=1, head_dim=16)  # fmt: skip
    config = ModelConfig(**sizes, fsq_dim=32, num_hidden_layers=2, text_hidden_dim=24)
    model = weights.Model(config, drawn(names.model_entries(config)), jnp.ones((1, 15_000, 64)))
    weights.save_model(tmp_path / "package", model, layout="diffusers", dtype=jnp.bfloat16)
    for name, load in CLASSES.items():
        module, unused = load.from_pretrained(tmp_path / "package" / name, output_loading_info=True)
        assert not any(unused.values()), (name, unused)
        dtypes = {parameter.dtype for parameter in module.parameters()}
        assert dtypes == {torch.float32}, name  # diffusers casts to its default on loading
    vae_config = VAEConfig(encoder_hidden_size=16, decoder_channels=4, decoder_input_channels=8)
    vae = weights.Network(vae_config, drawn(names.vae_entries(vae_config)))
    weights.save_vae(tmp_path / "vae", vae)
    assert diffusers.AutoencoderOobleck.from_pretrained(tmp_path / "vae").hop_length == 1920
    qwen3_config = Qwen3Config(**SMALL_QWEN3)
    qwen3 = weights.Network(qwen3_config, drawn(names.qwen3_entries(qwen3_config)))
    weights.save_qwen3(tmp_path / "lm", qwen3, causal=True, dtype=jnp.bfloat16)
    loaded = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "lm", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    table = np.asarray(qwen3.params["embed_tokens"])
    np.testing.assert_array_equal(
        loaded.model.embed_tokens.weight.detach().float().numpy(),
        np.asarray(jnp.asarray(table, jnp.bfloat16), np.float32),
    )
