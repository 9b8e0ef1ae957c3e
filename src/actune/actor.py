"""An actor ties engine, prompt and script together: a question and a catalogue in, events out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from actune import prompt
from actune.base.load import load_model, load_tokenizer, stop_ids
from actune.base.quantize import is_quantized
from actune.channel import channel_of
from actune.data.rows import Turn
from actune.engine.local import LocalEngine, Request
from actune.engine.one_row import quicken
from actune.engine.protocol import Engine, EngineError
from actune.errors import UserError, either
from actune.found import find
from actune.prompt import PromptFormat
from actune.reader import Reader
from actune.script.acting import Acting
from actune.script.catalogue import catalogue as check_catalogue
from actune.script.events import Event

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Actor:
    """Something that acts.

    Args:
        engine: Where tokens come from.
        fmt: The prompt's format; None (a base that was never tuned): built-in text in the question's language.
        free: Lift the constraint; unlisted actions then come as faults.
        acting: How it is decided to act, unless `free`.
    """

    def __init__(
        self,
        engine: Engine,
        fmt: PromptFormat | None = None,
        free: bool = False,
        acting: Acting | None = None,
    ) -> None:
        self.engine, self.free, self.acting = engine, free, acting
        self.dropped: Counter[str] = Counter()
        """What the engine wrote and its constraint did not prevent: tags that were left out, by kind of fault."""
        self.tokenizer: PreTrainedTokenizerBase = engine.tokenizer
        self._fmt = fmt
        self._bare = PromptFormat.for_rows((), self.tokenizer) if fmt is None else fmt
        first = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        # SentencePiece puts a blank before every text, so a tuned model's answer begins with one that nobody wrote.
        self._blank = b"".join(engine.vocabulary.token_bytes[id] or b"" for id in first) == b" a"

    @property
    def losses(self) -> list[str]:
        """What is lost on this engine, in the user's words."""
        return self.engine.supports.losses(self.acting is not None and not self.acting.neutral)

    @property
    def tuned(self) -> bool:
        """Whether it learned to act: its prompt is a run's."""
        return self._fmt is not None

    @property
    def local(self) -> LocalEngine:
        """The engine, where the model itself is needed.

        Raises:
            UserError: It is another one.
        """
        if not isinstance(self.engine, LocalEngine):
            raise UserError(
                "--engine",
                type(self.engine).__name__,
                either("the model itself, for its logits", "模型本身, 以读取 logits"),
                either("use --engine local for this", "请用 --engine local"),
            )
        return self.engine

    def format_for(self, question: str, history: Sequence[Turn] = ()) -> PromptFormat:
        """Return the run's format; without one the dialogue's first words decide the language."""
        if self._fmt is not None:
            return self._fmt
        language = prompt.language_of([history[0].text if history else question])
        return replace(self._bare, language=language, template=prompt.SYSTEM[language])

    def prompt_ids(
        self,
        question: str,
        catalogue: Sequence[str],
        history: Sequence[Turn] = (),
        persona: str = "",
        max_tokens: int = 256,
    ) -> list[int]:
        """Render the prompt of a request; where the context is full the oldest turns are left out.

        Raises:
            UserError: It does not fit even without history.
        """
        context = self.engine.context
        # An answer gets its budget, but in a tiny context not more than half of it.
        room = None if context is None else context - min(max_tokens, context // 2)
        fmt = self.format_for(question, history)
        return prompt.render_ids(self.tokenizer, fmt, question, catalogue, history, persona, room)

    def request(
        self,
        question: str,
        catalogue: Sequence[str],
        history: Sequence[Turn] = (),
        persona: str = "",
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Request:
        """Make what the engine runs; `events` tells what the arguments are.

        Raises:
            UserError: The prompt does not fit.
            ValueError: A name in the catalogue is not allowed.
        """
        names = check_catalogue(catalogue)
        ids = self.prompt_ids(question, names, history, persona, max_tokens)
        fmt = self.format_for(question, history)
        turns = prompt.messages(fmt, question, names, history, persona)
        if not self.engine.supports.constraint:  # it gets turns instead of ids
            turns = prompt.taken(self.tokenizer, fmt, turns)
        request = Request(ids, names, max_tokens, temperature, top_p, seed, messages=turns)
        if self.free:
            return replace(request, names=None)
        if self.acting is None or self.acting.neutral or not self.engine.supports.acting:
            return request
        blank = prompt.blank_ids(self.tokenizer, fmt, names, persona) if self.acting.compares else None
        channel = channel_of(self.tokenizer, question, names) if self.acting.hears else None
        return replace(request, acting=self.acting, blank=blank, channel=channel)

    def reader(self, catalogue: Collection[str], keep: bool = False) -> Reader:
        """Make what turns the tokens of an answer to a `request` with this catalogue into events.

        Args:
            catalogue: The actions offered.
            keep: Let tags that are no script come as faults, as `free` does, where the engine may write them.
        """
        can = self.engine.supports
        # Without the constraint the user wants to see what comes; with it, what slips through must do no harm.
        dropped = None if keep or self.free or (can.constraint and can.closing) else self.dropped
        return Reader(self.engine.vocabulary.token_bytes, self.engine.stop_ids, catalogue, self._blank, dropped)

    def events(
        self,
        question: str,
        catalogue: Sequence[str],
        history: Sequence[Turn] = (),
        persona: str = "",
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[Event]:
        """Answer a question.

        Args:
            question: What the user says.
            catalogue: The actions offered, in the order to show.
            history: Earlier turns, oldest first; an assistant's text is a script.
            persona: Text put before the system text.
            max_tokens: Budget of the answer.
            temperature: 0 is greedy.
            top_p: Share of the probability that sampling may choose from.
            seed: Of the sampling.

        Yields:
            `Say` and `Act` (and `Fault`) as they come, `Done` at last.

        Raises:
            UserError: The prompt does not fit.
            ValueError: A name in the catalogue is not allowed.
        """
        request = self.request(question, catalogue, history, persona, max_tokens, temperature, top_p, seed)
        return self._events(request, self.reader(catalogue))

    def _events(self, request: Request, reader: Reader) -> Iterator[Event]:
        failure = ""
        try:
            for token in self.engine.stream(request):
                yield from reader.feed(token)
        except (ArithmeticError, EngineError) as error:
            failure = str(error)
        yield from reader.close(failure)


def load_actor(
    run: str | Path,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    free: bool = False,
    unmerged: bool = False,
    quantize: str = "auto",
    trust_remote_code: bool = False,
) -> Actor:
    """Load something that acts.

    Args:
        run: A run, a checkpoint in a run, a merged folder, the folder or the name of a base.
        base: Where the run's base is now, if it moved; its hash is checked.
        device: ``auto``, or as torch names it.
        dtype: ``auto``, or as torch names it.
        free: Lift the constraint.
        unmerged: Keep the adapter apart instead of folding it into the weights; a quantised base always does.
        quantize: ``8bit``, ``4bit``, ``off``, or ``auto``: as the run was trained.
        trust_remote_code: Run Python code that comes with the base.

    Raises:
        UserError: There is nothing to load, or the base is not the one that was tuned.
    """
    found = find(run)
    where = found.model(base)
    tokenizer = load_tokenizer(found.tokenizer(base), trust_remote_code)
    if quantize == "auto":
        quantize = (found.manifest.options.get("quantize") if found.manifest and found.tuned else None) or "off"
    model = load_model(where, device, dtype, trust_remote_code, None if quantize == "off" else quantize)
    ends = set(stop_ids(model, tokenizer))
    if found.tuned:
        model = _with_adapter(model, found.folder, unmerged)
    quicken(model)
    ends.add(prompt.stop_token(tokenizer, found.format or PromptFormat.for_rows((), tokenizer)))
    return Actor(LocalEngine(model, tokenizer, sorted(ends)), found.format, free, found.acting)


def _with_adapter(model: PreTrainedModel, folder: Path, unmerged: bool) -> Any:
    # peft 0.21 asks transformers 5.23 by the old name; nobody can act on it here.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    tuned = PeftModel.from_pretrained(model, str(folder), torch_device=str(model.device)).eval()
    return tuned if unmerged else fold(tuned)


def fold(tuned: Any) -> Any:
    """Fold an adapter into the weights; on a quantised base it stays apart, for rounding would destroy it.

    Args:
        tuned: A `PeftModel`; it is of no more use afterwards.

    Returns:
        A plain model, or `tuned` as it is.
    """
    return tuned if is_quantized(tuned) else tuned.merge_and_unload().eval()
