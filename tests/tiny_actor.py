"""A byte tokenizer and a random llama, small enough to build in each test."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actune.base.chat_templates import chat_template

torch.set_num_threads(1)
SPECIALS = {
    "llama-3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
}


def byte_tokenizer(family: str = "chatml", template: str | None = "") -> PreTrainedTokenizerFast:
    """Every byte a token, `<&` and `&>` too; `template` "" is the family's, None is none at all."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = letters | {"<&": len(letters), "&>": len(letters) + 1}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "&"), ("&", ">")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    marks = SPECIALS[family]
    core.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=marks[0], eos_token=marks[1])
    tokenizer.chat_template = chat_template(family) if template == "" else template
    return tokenizer


def tiny_llama(tokenizer: PreTrainedTokenizerFast, seed: int = 0, context: int = 2048) -> LlamaForCausalLM:
    """Random float32 weights; the vocabulary is padded beyond the tokenizer's."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()
