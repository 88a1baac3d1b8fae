"""The tokenizer: ids, round trips, templates, and loading offline."""

import pytest
import tokenizers

from acestep_jax.data import loader, transforms, vocabulary
from acestep_jax.tasks import prompt

TEXTS = (
    "A warm acoustic folk song, 120 BPM, F# minor",
    "さくら さくら\nFreude, schöner Götterfunken\n¿dónde está? 漢字 🎵\tend  ",
    "[verse]\nI'm comin' home\n\n[chorus]\n<|audio_code_7|><|audio_code_999|>",
    "<think>\nbpm: 96\n</think>\n\n",
)


@pytest.fixture(scope="module")
def tokenizer():
    return transforms.load_tokenizer(loader.NANO_TOKENIZER)


def test_the_ids_lie_where_the_text_encoder_and_the_planner_expect_them(tokenizer):
    ids = {name: tokenizer.token_to_id(name) for name in vocabulary.QWEN3_ADDED}
    assert list(ids.values()) == list(range(2048, 2074))
    assert ids["<|im_start|>"] == 2049
    assert ids["</think>"] == 2073
    codes = [tokenizer.token_to_id(f"<|audio_code_{i}|>") for i in range(vocabulary.NUM_CODES)]
    assert codes == list(range(vocabulary.TEXT_ROWS, vocabulary.TEXT_ROWS + 1000))
    assert tokenizer.get_vocab_size() == 3176


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_and_ends_with_one_end_of_text(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert ids[-1] == 2048
    assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == text


def test_numbers_are_split_into_digits_as_qwen_does(tokenizer):
    assert tokenizer.encode(" 120\n").tokens[:5] == ["Ġ", "1", "2", "0", "Ċ"]


def test_markup_is_one_token_and_never_merges(tokenizer):
    assert len(tokenizer.encode("<think>").ids) == 2
    assert tokenizer.encode("x<|audio_code_5|>y").tokens[1] == "<|audio_code_5|>"


def test_the_templates_end_as_the_release_documents(tokenizer):
    caption = prompt.caption_prompt("calm piano", bpm=80, keyscale="C major", timesignature="4")
    ids, tokens = tokenizer.encode(caption).ids, tokenizer.encode(caption).tokens
    assert tokens[-3:] == ["<|endoftext|>", "Ċ", "<|endoftext|>"]
    assert ids[-3:] == [2048, tokenizer.token_to_id("Ċ"), 2048]
    lyrics = tokenizer.encode(prompt.lyric_prompt("la la", "en")).ids
    assert lyrics[-2:] == [2048, 2048]


def test_a_typical_caption_prompt_is_short(tokenizer):
    caption = "A bright, driving pop rock track featuring electric guitar and drums, a man singing"
    ids = tokenizer.encode(prompt.caption_prompt(caption, bpm=128)).ids
    assert len(ids) < 80  # measured 71


def test_long_prompts_lose_their_end_but_keep_the_final_token(tokenizer):
    ids, mask = transforms.tokenize(tokenizer, "word " * 50, 16)
    assert mask.all()
    assert ids[-1] == 2048
    assert ids[:15].tolist() == tokenizer.encode("word " * 50).ids[:15]
    ids, mask = transforms.tokenize(tokenizer, "word", 16)
    assert mask.sum() == len(tokenizer.encode("word").ids)
    assert set(ids[~mask]) == {2048}


def test_transformers_loads_it_offline_and_renders_chats():
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(loader.NANO_TOKENIZER)
    assert loaded.pad_token_id == 2048
    assert loaded.eos_token == "<|im_end|>"
    assert loaded(TEXTS[0])["input_ids"][-1] == 2048
    messages = [
        {"role": "system", "content": "# Instruction\nX\n\n"},
        {"role": "user", "content": "hi"},
    ]
    opened = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == (
        "<|im_start|>system\n# Instruction\nX\n\n<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = {"role": "assistant", "content": "<think>\n\n\nbpm: 9\n</think>\n<|audio_code_1|>"}
    written = loaded.apply_chat_template([answer], tokenize=False)
    assert written == (
        "<|im_start|>assistant\n<think>\nbpm: 9\n</think>\n\n<|audio_code_1|><|im_end|>\n"
    )


def test_building_is_deterministic_and_refuses_too_little_text():
    texts = list(vocabulary.corpus(num_songs=150))
    first, again = (vocabulary.build_tokenizer(texts) for _ in range(2))
    assert first.to_str() == again.to_str()
    assert isinstance(first, tokenizers.Tokenizer)
    with pytest.raises(ValueError, match="use more"):
        vocabulary.build_tokenizer(["only this"])
