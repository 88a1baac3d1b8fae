"""Counts the floating-point operations that an item's matrix products need.

What the formulas ask for, whoever computes them and however: of a sliding layer the pairs inside
the band alone, of the loop the condition's keys and values once. Norms, activations, softmax and
the time embeddings are not counted, so that the count over the time, as a share of the rate at
which the same machine multiplies square matrices, says how much of the time is not product.
"""

from acestep_jax.nn.config import ModelConfig, Qwen3Config, TransformerSizes, VAEConfig
from experiments.benchmarks.problem import Problem, Shapes, split_item

_RESIDUAL_UNITS = 3  # a block of the VAE; each a convolution of 7 taps and one of a single tap
_UNIT_TAPS = 7 + 1


def count(problem: Problem, item: str) -> float:
    """Counts the operations (two a multiply-add) of `item`."""
    name, shapes = split_item(item)[0], problem.shapes
    if name.startswith("vae"):
        one = _vae_encode if name == "vae_encode" else _vae_decode
        return problem.batch(item) * one(problem.vae_config, shapes.vae_frames)
    if name == "planner":
        return problem.batch(item) * _planner(problem.planner_config, shapes)
    config, tokens = problem.model_config, shapes.condition_tokens
    if name == "song":
        stages = (f"{stage}_b{problem.batch(item)}" for stage in ("condition_encoder", "dit_loop"))
        sound = problem.batch(item) * _vae_decode(problem.vae_config, shapes.frames)
        return sound + sum(count(problem, stage) for stage in stages)
    keys = _condition_keys(config, tokens)
    velocity = _dit(config, shapes.frames, tokens)
    one = {
        "dit_forward": keys + velocity,
        "dit_loop": keys + shapes.steps * velocity,
        "condition_encoder": _condition_encoder(config, shapes),
        "tokenizer": _tokenizer(config, shapes.frames),
        "detokenizer": _detokenizer(config, shapes.frames),
    }[name]
    return problem.batch(item) * one


def visible_pairs(length: int, window: int | None) -> int:
    """Counts pairs (i, j) with |i - j| <= window among `length` positions."""
    if window is None or window >= length - 1:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def _projections(sizes: TransformerSizes, queries: int, keys: int) -> float:
    """Queries and output for `queries` positions, keys and values for `keys`."""
    heads, kv_heads = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    return 2 * sizes.width * (2 * queries * heads + 2 * keys * kv_heads)


def _scores(sizes: TransformerSizes, pairs: int) -> float:
    """Logits and the weighted sum of the values."""
    return 4 * pairs * sizes.num_heads * sizes.head_dim


def _mlp(sizes: TransformerSizes, length: int) -> float:
    return 6 * length * sizes.width * sizes.mlp_width


def _stack(sizes: TransformerSizes, num_layers: int, length: int, window: int | None) -> float:
    """Alternating plain layers on one sequence, the first of them sliding."""
    each = _projections(sizes, length, length) + _mlp(sizes, length)
    sliding = _scores(sizes, visible_pairs(length, window))
    full = _scores(sizes, length * length)
    return num_layers * each + -(-num_layers // 2) * sliding + num_layers // 2 * full


def _dit(config: ModelConfig, frames: int, tokens: int) -> float:
    """One velocity, the condition's keys and values aside."""
    sizes, patches = config.dit, -(-frames // config.patch_size)
    frame_channels = config.in_channels + config.audio_acoustic_hidden_dim
    patching = 2 * patches * config.patch_size * frame_channels * sizes.width
    cross = _projections(sizes, patches, 0) + _scores(sizes, patches * tokens)
    layers = _stack(sizes, config.num_hidden_layers, patches, config.sliding_window)
    return patching + layers + config.num_hidden_layers * cross


def _condition_keys(config: ModelConfig, tokens: int) -> float:
    embed = 2 * tokens * config.encoder.width * config.dit.width
    return embed + config.num_hidden_layers * _projections(config.dit, 0, tokens)


def _condition_encoder(config: ModelConfig, shapes: Shapes) -> float:
    sizes, window = config.encoder, config.sliding_window
    words, clip = shapes.lyric_tokens, shapes.refer_frames
    text = 2 * (shapes.text_tokens + words) * config.text_hidden_dim * sizes.width
    timbre = 2 * clip * config.timbre_hidden_dim * sizes.width
    lyric_layers = _stack(sizes, config.num_lyric_encoder_hidden_layers, words, window)
    clip += config.prepend_timbre_token
    timbre_layers = _stack(sizes, config.num_timbre_encoder_hidden_layers, clip, window)
    return text + lyric_layers + timbre + timbre_layers


def _tokenizer(config: ModelConfig, frames: int) -> float:
    sizes, window = config.encoder, config.pool_window_size
    codes = -(-frames // window)
    embed = 2 * window * sizes.width * (config.audio_acoustic_hidden_dim + sizes.width)
    depth = config.num_attention_pooler_hidden_layers
    pool = _stack(sizes, depth, window + 1, config.sliding_window)
    quantize = 4 * sizes.width * len(config.fsq_input_levels)
    return codes * (embed + pool + quantize)


def _detokenizer(config: ModelConfig, frames: int) -> float:
    sizes, window = config.encoder, config.pool_window_size
    codes = -(-frames // window)
    depth = config.num_attention_pooler_hidden_layers
    unfold = _stack(sizes, depth, window, config.sliding_window)
    embed = 2 * sizes.width * sizes.width
    out = 2 * window * sizes.width * config.audio_acoustic_hidden_dim
    return codes * (embed + unfold + out)


def _planner(config: Qwen3Config, shapes: Shapes) -> float:
    """A prompt and codes behind it; each sees all before, and half of the rows are scored."""
    sizes, total = config.sizes, shapes.prompt_tokens + shapes.new_tokens
    each = _projections(sizes, total, total) + _mlp(sizes, total)
    scores = _scores(sizes, total * (total + 1) // 2)
    head = 2 * shapes.new_tokens * sizes.width * (config.vocab_size - code_rows(config))
    return config.num_hidden_layers * (each + scores) + head


def code_rows(config: Qwen3Config) -> int:
    """Gives the first row of the codes: 2,176 as in the nano planner, else half of the rows."""
    return min(2176, config.vocab_size // 2)


def _residual_units(length: int, width: int) -> float:
    return _RESIDUAL_UNITS * 2 * length * width * width * _UNIT_TAPS


def _vae_encode(config: VAEConfig, frames: int) -> float:
    length, width = frames * config.hop, config.encoder_hidden_size
    total = 2.0 * length * 7 * config.audio_channels * width
    for multiple, stride in zip(config.channel_multiples, config.downsampling_ratios, strict=True):
        total += _residual_units(length, width)
        wider = config.encoder_hidden_size * multiple
        length //= stride
        total += 2 * length * (2 * stride) * width * wider
        width = wider
    return total + 2 * length * 3 * width * 2 * config.decoder_input_channels


def _vae_decode(config: VAEConfig, frames: int) -> float:
    multiples = (1, *config.channel_multiples)[::-1]
    length, width = frames, config.decoder_channels * multiples[0]
    total = 2.0 * length * 7 * config.decoder_input_channels * width
    for multiple, stride in zip(multiples[1:], config.downsampling_ratios[::-1], strict=True):
        narrower = config.decoder_channels * multiple
        # each sample in is spread over two strides of samples out
        total += 2 * length * (2 * stride) * width * narrower
        length, width = length * stride, narrower
        total += _residual_units(length, width)
    return total + 2 * length * 7 * width * config.audio_channels
