"""The loss of the choice at a tag is the likelihood that constrained decoding gives to the right name."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actune.prompt import PromptFormat
from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary
from actune.tune.choices import PAD, choice_loss, choices_of, collated
from actune.tune.dataset import RowDataset, collate
from actune.tune.fast.path import FastPath
from actune.tune.lora import add_lora
from actune.tune.options import TrainOptions, settle
from actune.tune.trainer import summed_loss
from conftest import make_rows
from tiny_actor import byte_tokenizer

NAMES = ("cup-fill", "cup-wash", "lamp-on")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = byte_tokenizer()
    return Vocabulary.from_tokenizer(tokenizer, len(tokenizer) + 3, [tokenizer.eos_token_id])


def ids_of(vocabulary: Vocabulary, text: str) -> list[int]:
    tokenizer = byte_tokenizer()
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_it_chooses_where_names_part_and_nowhere_else(vocabulary: Vocabulary) -> None:
    answer = ids_of(vocabulary, "I do.\n<&cup-wash&>\nDone.")
    found = choices_of(answer, Grammar(vocabulary, NAMES))
    # Bytes are tokens here: names part at their first letter (c or l) and after `cup-` (f or w). Where the name ends,
    # the tag can be closed by one token or by two.
    spelled = [[vocabulary.token_bytes[token] for token in ids] for _, ids in found]
    assert spelled == [[b"c", b"l"], [b"w", b"f"], [b"&>", b"&"]]
    assert all(answer[place] == ids[0] for place, ids in found)
    assert choices_of(ids_of(vocabulary, "Only words."), Grammar(vocabulary, NAMES)) == []
    assert len(choices_of(ids_of(vocabulary, "<&lamp-on&>"), Grammar(vocabulary, ("lamp-on",)))) == 1


def test_the_loss_is_that_of_the_renormalised_choice(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    answers = [ids_of(vocabulary, text) for text in ("<&lamp-on&>", "No.", "So <&cup-fill&> and <&cup-wash&>")]
    grammar = Grammar(vocabulary, NAMES)
    rows = [choices_of(answer, grammar) for answer in answers]
    batch = collated(rows, [len(answer) for answer in answers])
    hidden = torch.randn(sum(map(len, answers)), 8, requires_grad=True)
    weight, bias = torch.randn(vocabulary.size, 8), torch.randn(vocabulary.size)
    loss = choice_loss(hidden, weight, bias, batch)
    logits, wanted, at = hidden @ weight.T + bias, torch.zeros(()), 0
    for answer in answers:
        state = grammar.start
        for token in answer:
            if grammar.inside(state):
                allowed = torch.from_numpy(grammar.mask(state))
                wanted = wanted - torch.log_softmax(logits[at].masked_fill(~allowed, -torch.inf), -1)[token]
            state, at = grammar.step(state, token), at + 1
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    # The gradients are those too, and the filling of short choices has none.
    (one,), (other,) = torch.autograd.grad(loss, hidden), torch.autograd.grad(wanted, hidden)
    torch.testing.assert_close(one, other)
    assert torch.isfinite(one).all()


def test_without_choices_there_is_no_loss(vocabulary: Vocabulary) -> None:
    batch = collated([[], []], [3, 4])
    assert batch["choice_ids"].shape == (0, 1)
    assert choice_loss(torch.randn(7, 4), torch.randn(9, 4), None, batch).item() == 0
    assert collated([[(1, [5, 6, 7])], [(0, [8, 9])]], [4, 2])["choice_ids"].tolist() == [[5, 6, 7], [8, 9, PAD]]
    assert collated([[(1, [5, 6, 7])], [(0, [8, 9])]], [4, 2])["choice_at"].tolist() == [1, 4]


@pytest.mark.parametrize("fast", [False, True])
def test_both_paths_add_it_to_the_cross_entropy(tiny_base: Path, fast: bool) -> None:
    tokenizer, rows = AutoTokenizer.from_pretrained(tiny_base), make_rows(6)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), None, choices=True)
    batch = collate([data[place] for place in range(6)])
    model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_base), settle(TrainOptions()))
    head = model.get_output_embeddings()
    with FastPath(model, chunked=True) if fast else nullcontext() as path:

        def loss(weight: float) -> float:
            return float(
                (path.loss(model, batch, weight) if path else summed_loss(model, head, batch, weight))[0].detach()
            )

        more = loss(0.5) - loss(0.0)
    wanted = 0.0
    vocabulary = Vocabulary.from_tokenizer(tokenizer, head.weight.shape[0], [tokenizer.eos_token_id])
    for index, row in enumerate(rows):
        example = data.example(index)
        with torch.no_grad():
            logits = model(torch.tensor([example.input_ids])).logits[0]
        grammar = Grammar(vocabulary, row.actions)
        state, border = grammar.start, len(example.input_ids) - example.trained
        for place, token in enumerate(example.input_ids[border:], start=border):
            if grammar.inside(state):
                allowed = torch.from_numpy(grammar.mask(state))
                wanted -= float(torch.log_softmax(logits[place - 1].masked_fill(~allowed, -torch.inf), -1)[token])
            state = grammar.step(state, token)
    assert more == pytest.approx(0.5 * wanted, rel=1e-4)
    assert wanted > 1
