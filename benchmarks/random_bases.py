"""Two random layers of the width of published models: what a step costs there, without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Widths of the published models; two layers, so that a step takes seconds.
RANDOM: dict[str, tuple[str, dict[str, int]]] = {
    "qwen2.5-0.5b": (
        "qwen2",
        {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14}
        | {"num_key_value_heads": 2},
    ),
    "phi-3": (
        "phi3",
        {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32}
        | {"num_key_value_heads": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
}


def load(base: str, dtype: str) -> Any:
    """Load a base, or make one with random weights."""
    # Here, not above: `--help` shall not wait for torch.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from actune.base.load import DTYPES, load_model

    if base not in RANDOM:
        return load_model(Path(base), "cpu", dtype)
    kind, sizes = RANDOM[base]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, num_hidden_layers=2, **sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").to(DTYPES[dtype])
