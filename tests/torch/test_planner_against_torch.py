"""A planner tuned by adapters, opened by PEFT over transformers: the same scores, and it writes."""

import dataclasses

import jax
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from acestep_jax import weights
from acestep_jax.nn import lora
from acestep_jax.training.recipes.planner import TrainPlanner, toy_planner
from train import planner

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # theirs, not ours, to mend
]


def test_peft_opens_the_adapters_of_a_planner_and_they_equal_the_merged_one(tmp_path):
    config = toy_planner(TrainPlanner(name="tuned", lora=True, adapter=lora.LoRA(rank=2, alpha=6)))
    model = dataclasses.replace(config.model, export_dtype="float32")
    config = dataclasses.replace(config, model=model)
    begin = planner.open_planner(config)
    trained = lora.init(jax.random.key(1), begin.network.params, config.adapter)
    trained = jax.tree.map(lambda x: x + 0.1, trained)
    folder = planner.export(config, begin, trained, begin.network.params, tmp_path / "export")
    weights.save_qwen3(tmp_path / "base", begin.network, causal=True)

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tuned = peft.PeftModel.from_pretrained(base, folder / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("a waltz", return_tensors="pt").input_ids
    with torch.inference_mode():
        scores = tuned(input_ids=ids).logits
        np.testing.assert_allclose(scores, merged(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
        assert tuned.generate(input_ids=ids, max_new_tokens=3).shape[1] > ids.shape[1]
    mine = planner.build(config, begin.network.config).apply(
        {"params": planner.planner_params(config, trained, begin.network.params)},
        np.asarray(ids),
        method="score",
    )
    np.testing.assert_allclose(scores, mine, atol=1e-4, rtol=1e-4)  # sums in another order
