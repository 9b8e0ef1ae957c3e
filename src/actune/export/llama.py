"""A GGUF file judged by llama.cpp itself: prompts, stop ids, greedy text, likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actune import prompt
from actune.actor import Actor
from actune.data.rows import Row
from actune.engine.llama_cpp import open_server
from actune.engine.wire import Client
from actune.errors import either
from actune.export.parity import GREEDY_TOKENS, Look

# Likelihoods come as JSON: the likeliest tokens, for the first tokens of an answer. The rest counts as one.
LIKELIEST, ANSWER = 64, 24
# Logits of two programs in fp32 were up to 0.02 apart on a random model: exp and the order of sums differ.
TIE = 0.02


def compare_looks(file: Path, actor: Actor, wanted: Look, rows: Sequence[Row]) -> tuple[Look, Look]:
    """Run rows through a GGUF file.

    Args:
        file: The GGUF file.
        actor: What it was made from.
        wanted: Its look at the rows.
        rows: The rows.

    Returns:
        `wanted` and the file's look, both with logits over what llama.cpp tells: its likeliest tokens and the rest.
    """
    _server, client = _start(file, max(map(len, wanted.prompts)) + 1024)
    prompts, templated, logits, seen, best = [], [], [], [], []
    greedy: list[list[int]] = []
    for row, ids, target in zip(rows, wanted.prompts, wanted.logits, strict=True):
        fmt = actor.format_for(row.question, row.history)
        ours, own = _prompts(client, actor, row)
        prompts.append(ours)
        templated.append(own)
        whole = {"prompt": ids, "n_predict": GREEDY_TOKENS, "temperature": 0, "return_tokens": True}
        tokens = client.ask("/completion", whole)["tokens"]
        tokens = [token for token in tokens if token not in wanted.stops]
        text = wanted.greedy[len(greedy)]
        greedy.append(text if _parts_at_a_tie(actor, ids, text, tokens) else tokens)
        answer = prompt.answer_ids(actor.tokenizer, fmt, row.script)[:ANSWER]
        stop = min(wanted.stops)
        pairs = [_likeliest(client, [*ids, *answer[:at]], target[at], stop) for at in range(len(answer))]
        logits.append(torch.stack([ours for ours, _, _ in pairs]))
        seen.append(torch.stack([theirs for _, theirs, _ in pairs]))
        best.append(torch.tensor([liked for _, _, liked in pairs]))
    stops = frozenset(id for id in wanted.stops if _ends(client, wanted.prompts[0], id))
    del _server
    first = [liked[:ANSWER] for liked in wanted.best]
    return replace(wanted, logits=logits, best=first), Look(prompts, templated, stops, seen, best, greedy)


def _prompts(client: Client, actor: Actor, row: Row) -> tuple[list[int], list[int]]:
    """Let it make ids of our text of a prompt, and of messages by its own template engine."""
    fmt = actor.format_for(row.question, row.history)
    given = (row.question, row.actions, row.history, row.system)
    messages = prompt.taken(actor.tokenizer, replace(fmt, chat_template=None), prompt.messages(fmt, *given))
    own = client.ask("/apply-template", {"messages": messages, "chat_template_kwargs": prompt.THINKING_OFF})["prompt"]
    # As it does with messages: a BOS that it puts there itself it has taken away from the template's text.
    return _tokens(client, prompt.render(actor.tokenizer, fmt, *given)), _tokens(client, own, whole=True)


def _parts_at_a_tie(actor: Actor, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Tell whether two greedy texts part where the model likes both tokens alike; from there on nothing is equal."""
    pairs = zip(ours, theirs, strict=False)
    at = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if at is None:
        return False
    model = actor.local.model
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *ours[:at]]], device=model.device)
        scores = model(input_ids=ids, logits_to_keep=1).logits[0, -1]
    return bool(scores[ours[at]] - scores[theirs[at]] <= TIE)


def _start(file: Path, context: int) -> tuple[object, Client]:
    """Load a file into a server of this process; it lives as long as the first of the two."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.n_parallel, params.n_ctx, params.warmup = 1, context, False
    # Keys and values in 16 bits, its default, would be a rounding of their own.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    fix = either("another --dtype, or --to vllm", "换一个 --dtype, 或用 --to vllm")
    server, key = open_server(file, params, fix, exit_code=3)
    return server, Client(server.listening_address, key)


def _tokens(client: Client, text: str, whole: bool = False) -> list[int]:
    options = {"content": text, "add_special": whole, "parse_special": True}
    return list(client.ask("/tokenize", options)["tokens"])


def _likeliest(client: Client, ids: list[int], wanted: Tensor, stop: int) -> tuple[Tensor, Tensor, int]:
    """Return log-likelihoods of what llama.cpp likes best and of the rest, ours and its own, and its best token."""
    options = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": LIKELIEST, "cache_prompt": True}
    # A token that ends within a character would be held back with its likelihoods. A stop is whole; what is told are
    # the model's own likelihoods, before any bias.
    options["logit_bias"] = [[stop, 1000.0]]
    told: list[dict[str, Any]] = client.ask("/completion", options)["completion_probabilities"][0]["top_logprobs"]
    places = torch.tensor([token["id"] for token in told])
    theirs = torch.tensor([token["logprob"] for token in told])
    return _with_rest(torch.log_softmax(wanted, -1)[places]), _with_rest(theirs), int(told[0]["id"])


def _with_rest(logs: Tensor) -> Tensor:
    rest = (1 - logs.double().exp().sum()).clamp(min=1e-9).log()
    return torch.cat([logs, rest[None].float()])


def _ends(client: Client, ids: list[int], token: int) -> bool:
    """Tell whether a token ends an answer, by making it certain."""
    options = {"prompt": ids, "n_predict": 2, "temperature": 0, "logit_bias": [[token, 1000.0]]}
    return bool(client.ask("/completion", options)["stop_type"] == "eos")
