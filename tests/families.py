"""The families of the architecture matrix: the config of a tiny random model, and a chat format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import family_formats as formats
from family_formats import Format


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        name: As people call it.
        kind: The `model_type` of its config in transformers.
        format: How its models are talked to.
        config: What its config has beyond `SIZES`.
        code: A folder under tests with the Python code that the base brings.
        pieces: llama.cpp's converter gets a SentencePiece tokenizer: from this family it wants one; or, for Qwen2, the
            words of another family will not do: transformers cuts them by Qwen2's rules.
    """

    name: str
    kind: str
    format: Format
    config: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    pieces: bool = False


# Four heads over two: every grouped form is used. What a config does not know it ignores.
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    # The usual 0.02 makes a model of this size say nearly the same whatever is asked.
    "initializer_range": 0.2,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"sliding_window": 48, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES = (
    Family("Llama 2", "llama", formats.LLAMA_2, config={"num_key_value_heads": 4}),
    Family("Llama 3", "llama", formats.LLAMA_3, config={"tie_word_embeddings": True}),
    Family("Qwen2", "qwen2", formats.QWEN2, config={"tie_word_embeddings": True}, pieces=True),
    Family("Qwen3", "qwen3", formats.QWEN3),
    Family("Qwen3-MoE", "qwen3_moe", formats.QWEN3, config={**EXPERTS, "norm_topk_prob": True}),
    Family("Mistral", "mistral", formats.MISTRAL, config={"sliding_window": None}),
    Family("Mixtral", "mixtral", formats.MIXTRAL, config={"num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("Gemma 2", "gemma2", formats.GEMMA_2, config={**SLIDING, "query_pre_attn_scalar": 8}, pieces=True),
    # Its pattern of layers is six long, that of SmolLM3 four; llama.cpp knows them by heart.
    Family(
        "Gemma 3",
        "gemma3_text",
        formats.GEMMA_2,
        config={"num_hidden_layers": 6, "sliding_window": 48, "query_pre_attn_scalar": 8},
    ),
    Family("Phi-3", "phi3", formats.PHI_3, pieces=True),
    Family(
        "Phi-4-mini",
        "phi3",
        formats.PHI_4_MINI,
        config={
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        pieces=True,
    ),
    Family("GLM-4", "glm4", formats.GLM_4),
    Family("InternLM3", "internlm3", formats.INTERNLM3),
    Family("Yi", "llama", formats.YI),
    Family(
        "DeepSeek-V3",
        "deepseek_v3",
        formats.DEEPSEEK_V3,
        config={
            **EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "head_dim": 4,
        },
    ),
    Family(
        "Granite",
        "granite",
        formats.GRANITE,
        config={
            "logits_scaling": 4.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.22,
            "embedding_multiplier": 12.0,
            "tie_word_embeddings": True,
        },
    ),
    Family("OLMo 2", "olmo2", formats.OLMO_2),
    Family("SmolLM3", "smollm3", formats.SMOLLM3, config={"num_hidden_layers": 4, "tie_word_embeddings": True}),
    Family("Cohere", "cohere", formats.COHERE, config={"logit_scale": 0.25}),
    Family(
        "GPT-OSS",
        "gpt_oss",
        formats.GPT_OSS,
        # Without YaRN: with eight numbers a head llama.cpp answers otherwise by it (KL 1.5e-4).
        config={
            **SLIDING,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
        },
    ),
    Family("remote code", "plainlm", formats.REMOTE_CODE, code="remote_code"),
)
