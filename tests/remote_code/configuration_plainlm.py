"""The config of a small language model whose code comes with its weights. Made for the tests."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class PlainConfig(PretrainedConfig):
    model_type = "plainlm"

    def __init__(
        self,
        vocab_size: int = 640,
        hidden_size: int = 32,
        intermediate_size: int = 48,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 1024,
        initializer_range: float = 0.2,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
