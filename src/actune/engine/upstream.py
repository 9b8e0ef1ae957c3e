"""Tokens from a server with the OpenAI protocol: vLLM, llama-server, Ollama, SGLang and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from actune.engine.protocol import EngineError, Supports, Token, generate
from actune.engine.streams import StreamBatch
from actune.engine.wire import Client, Refused
from actune.errors import UserError, either
from actune.script.formats import gbnf, lark, structural_tag
from actune.script.vocabulary import Vocabulary

if TYPE_CHECKING:
    from actune.engine.local import Request

Constraint = Callable[[tuple[str, ...]], dict[str, Any]]
# A text that no two families of tokenizers cut alike.
PROBE = "Hello, 你好 <&tea-pour&> naïve 炒冬瓜!"
_UNKNOWN = (400, 422)


def _tag(names: tuple[str, ...]) -> dict[str, Any]:
    return {"structured_outputs": {"structural_tag": json.dumps(structural_tag(names), ensure_ascii=False)}}


def _lark(names: tuple[str, ...]) -> dict[str, Any]:
    return {"structured_outputs": {"grammar": lark(names)}}


def _gbnf(names: tuple[str, ...]) -> dict[str, Any]:
    # Its defaults cut the sampling's tail in two more ways than ours.
    return {"grammar": gbnf(names), "top_k": 0, "min_p": 0.0}


# By `owned_by` in the list of models: the forms of the constraint, to be tried in this order. vLLM refuses the
# structural tag with its backend `guidance` (issue 55152). Others get messages, and what they write is checked.
CONSTRAINTS: dict[str, tuple[Constraint, ...]] = {"vllm": (_tag, _lark), "llamacpp": (_gbnf,)}


class Upstream:
    """An engine behind HTTP; see `protocol.Engine`. Make it by `connect`.

    Args:
        client: To the server.
        card: The model's entry in the server's list.
        tokenizer: Of the model.
        stop_ids: Every token that ends an answer.
        keeper: Lives as long as the engine; a server of our own.
    """

    def __init__(
        self, client: Client, card: dict[str, Any], tokenizer: Any, stop_ids: Collection[int], keeper: object = None
    ) -> None:
        self._client, self._model, self._keeper = client, card["id"], keeper
        self.tokenizer, self.stop_ids = tokenizer, tuple(stop_ids)
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer, 1 + max(tokenizer.get_vocab().values()), self.stop_ids)
        meta = card.get("meta") or {}
        # vLLM's name, and llama-server's: a slot's length, which may be more than the model was made for.
        limits = [card.get("max_model_len"), meta.get("n_ctx"), meta.get("n_ctx_train")]
        self.context: int | None = min((limit for limit in limits if limit), default=None)
        self.kind = str(card.get("owned_by"))
        self.extra: dict[str, Any] = {}
        """Fields of the server's own that every request gets."""
        self._constraints = CONSTRAINTS.get(self.kind, ())
        self.supports = Supports(constraint=bool(self._constraints), closing=False, acting=False)

    def batch(self) -> StreamBatch:
        """Start a batch; the server computes its answers together, if it can."""
        return StreamBatch(self)

    def generate(self, requests: Sequence[Request], batch_size: int = 16) -> list[list[Token]]:
        """Answer many requests; see `protocol.Engine`."""
        return generate(self.batch(), requests, batch_size)

    def stream(self, request: Request) -> Iterator[Token]:
        """Yield pieces of text as they come, and a stop id where the model ended by itself.

        Raises:
            EngineError: The server failed in the middle of the answer.
            UserError: It cannot be reached, or refuses the request.
        """
        forms = self._constraints if request.names is not None else ()
        refusals: list[Refused] = []
        for place, form in enumerate(forms or (None,)):
            try:
                yield from self._stream(request, form)
            except Refused as error:
                refusals.append(error)
                if error.status not in _UNKNOWN:
                    break
            else:
                # What it took once it takes again. (What it refused may have had another reason.)
                self._constraints = forms[place:] or self._constraints
                return
        raise self._refusal(refusals[0]) from refusals[0]

    def _stream(self, request: Request, constraint: Constraint | None) -> Iterator[Token]:
        sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        body: dict[str, Any] = {"model": self._model, "max_tokens": request.max_tokens, **sampling}
        if self._constraints:
            path, body["prompt"] = "/v1/completions", request.prompt
            body |= {"stop_token_ids": list(self.stop_ids)} if self.kind == "vllm" else {}
        else:
            path, body["messages"] = "/v1/chat/completions", list(request.messages)
        if constraint is not None and request.names is not None:
            body |= constraint(request.names)
        for piece in self._client.stream(path, body | self.extra):
            if piece.text:
                yield piece.text.encode("utf-8", "replace")
            if piece.finish == "stop":
                yield self.stop_ids[0]
            elif piece.finish not in (None, "length"):
                raise EngineError(f"{self._client.url}: {piece.finish}")

    def _refusal(self, error: Refused) -> UserError:
        return UserError(
            self._client.url,
            str(error),
            either("an answer", "回答"),
            either("see the server's log; check --url and --model", "查看服务器日志; 检查 --url 和 --model"),
            exit_code=1,
        )

    def check_vocabulary(self) -> None:
        """Make sure that the server's token ids are ours: other ones would be read as nonsense, in silence.

        Raises:
            UserError: They are not.
        """
        if not self._constraints:
            return
        ids = list(self.tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        try:
            answer = self._client.ask("/detokenize", {"model": self._model, "tokens": ids})
        except Refused as error:
            raise self._refusal(error) from error
        # The names are those of vLLM and llama-server.
        text = str(answer.get("prompt") or answer.get("content"))
        if text.strip() != PROBE:
            raise UserError(
                f"{self._client.url} {self._model}",
                either(f"another vocabulary: {PROBE!r} comes back as {text!r}", f"词表不同: {PROBE!r} 变成 {text!r}"),
                either("the model of this run", "本次训练的模型"),
                either("name the right model with --model", "用 --model 指定正确的模型"),
            )


def connect(
    url: str,
    model: str,
    tokenizer: Any,
    stop_ids: Collection[int],
    *,
    key: str = "",
    keeper: object = None,
    client: Client | None = None,
) -> Upstream:
    """Connect to a server.

    Args:
        url: Its address.
        model: Its name for the model; empty where it has only one.
        tokenizer: Of the model.
        stop_ids: Every token that ends an answer.
        key: Sent as bearer token.
        keeper: Lives as long as the engine.
        client: In place of one made from url and key.

    Raises:
        UserError: It cannot be reached, or has no such model.
    """
    client = client or Client(url, key)
    try:
        listed = client.ask("/v1/models")
    except Refused as error:
        fix = either("set ACTUNE_UPSTREAM_KEY if it wants a key", "如需密钥, 设置 ACTUNE_UPSTREAM_KEY")
        raise UserError(client.url, str(error), "GET /v1/models", fix, exit_code=1) from error
    engine = Upstream(client, _choose(client.url, listed.get("data") or [], model), tokenizer, stop_ids, keeper)
    engine.check_vocabulary()
    return engine


def _choose(url: str, cards: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    fitting = [card for card in cards if model in ("", card["id"])]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(card["id"] for card in cards) or either("no model", "没有模型")
    fix = either("name one of them with --model", "用 --model 指定其中之一")
    if model:
        raise UserError(f"--model {model}", either(f"not at {url}", f"{url} 没有它"), names, fix)
    raise UserError(url, names, either("one model", "一个模型"), fix)
