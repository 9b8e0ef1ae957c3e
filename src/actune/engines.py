"""Load an actor on another engine than transformers: llama.cpp here, or a server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from actune import prompt
from actune.actor import Actor
from actune.base.load import load_tokenizer, named_stop_ids
from actune.engine.upstream import Upstream, connect
from actune.errors import UserError, either
from actune.found import Found, find
from actune.prompt import PromptFormat

if TYPE_CHECKING:
    from actune.say import How

KEY = "ACTUNE_UPSTREAM_KEY"


def load_elsewhere(run: str, how: How) -> Actor:
    """Load an actor on `how.engine`, and say on stderr what is lost there.

    Args:
        run: As `actor.load_actor` takes it. For a server it gives the tokenizer, the prompt's format and the acting.
        how: With an engine that is not ``local``.

    Raises:
        UserError: There is nothing to load, a server is away or has another model, or an option does not fit.
    """
    found = find(run)
    _check(how)
    tokenizer = load_tokenizer(found.tokenizer(how.base), how.trust_remote_code)
    engine = _llama(found, tokenizer, how) if how.engine == "llama_cpp" else _server(found, tokenizer, how)
    actor = Actor(engine, found.format, how.free, found.acting)
    for loss in actor.losses:
        print(f"{how.engine}: {loss}", file=sys.stderr)
    return actor


def _check(how: How) -> None:
    here = {
        "--unmerged": how.unmerged,
        "--device": how.device != "auto",
        "--dtype": how.dtype != "auto",
        "--quantize": how.quantize != "auto",
    }
    if given := [name for name, is_given in here.items() if is_given]:
        fix = either("leave them out, or use --engine local", "去掉它们, 或用 --engine local")
        raise UserError(f"--engine {how.engine}", ", ".join(given), either("none of them", "不能使用"), fix)
    if how.engine == "upstream" and not how.url:
        fix = either("name the server's address", "填写服务器地址")
        raise UserError("--engine upstream", either("no --url", "没有 --url"), "--url http://HOST:PORT", fix)


def _ends(found: Found, tokenizer: Any) -> int:
    return prompt.stop_token(tokenizer, found.format or PromptFormat.for_rows((), tokenizer))


def _llama(found: Found, tokenizer: Any, how: How) -> Upstream:
    from actune.engine.llama_cpp import need_llama, start_llama
    from actune.export.cached import cached_gguf

    need_llama()
    where = found.model(how.base)
    file = cached_gguf(found, how.base, how.trust_remote_code)
    ends = {*named_stop_ids(where, tokenizer), _ends(found, tokenizer)}
    return start_llama(file, tokenizer, sorted(ends))


def _server(found: Found, tokenizer: Any, how: How) -> Upstream:
    # Without the base's own list: it need not be on this machine, and the server knows it.
    ends = {_ends(found, tokenizer), tokenizer.eos_token_id} - {None}
    return connect(how.url, how.model, tokenizer, sorted(ends), key=os.environ.get(KEY, ""))
