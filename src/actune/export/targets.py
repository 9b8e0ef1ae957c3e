"""What each form of an export consists of."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from actune import prompt
from actune.actor import Actor, load_actor
from actune.base.load import load_tokenizer
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.engine.protocol import Supports
from actune.errors import UserError, either
from actune.export.case import Case
from actune.export.folder import card
from actune.export.gguf import make_gguf
from actune.export.llama import compare_looks
from actune.export.ollama import check_pieces, modelfile, read_pieces
from actune.export.parity import BLOCKS, ELSEWHERE, ROUNDED, compare, look, show
from actune.found import ADAPTER
from actune.script.acting import Acting
from actune.script.formats import structural_tag
from actune.tune.run import MANIFEST, PARITY, read_manifest, write_manifest, write_whole

MOST_CONTEXT = 4096
# By the form of the export: what programs that read it can do, where the constraint is sent with each request.
READERS = {
    "gguf": Supports(closing=False, acting=False),
    "ollama": Supports(constraint=False, closing=False, acting=False),
    "vllm": Supports(closing=False, acting=False),
}


@dataclass(frozen=True)
class Proof:
    """A GGUF file that was compared.

    Args:
        file: The file.
        actor: What it was made from.
        rows: What it was compared on.
    """

    file: Path
    actor: Actor
    rows: list[Row]


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / ADAPTER).is_file()


def check_merged(folder: Path) -> None:
    """Check that a folder is a merged one.

    Raises:
        UserError: It is not.
    """
    missing = [name for name in (MANIFEST, PARITY, "config.json") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            str(folder),
            either(f"no {', '.join(missing)} in it", f"其中没有 {', '.join(missing)}"),
            either("a run, or a folder that `actune merge` wrote", "训练结果, 或 actune merge 写出的文件夹"),
            either("check the path", "检查路径"),
        )


def write_gguf(model: Path, out: Path, dtype: str, device: str, trust_remote_code: bool) -> Proof:
    """Write a GGUF file and hold it against the folder it was made from.

    Raises:
        UserError: llama.cpp does not know such a model (2), or the file is not equal enough (3).
    """
    file = make_gguf(model, out / f"model-{dtype}.gguf", dtype)
    rows = load_rows([model / PARITY])
    actor = load_actor(model, device=device, dtype="fp32", free=True, trust_remote_code=trust_remote_code)
    parity = compare(*compare_looks(file, actor, look(actor, rows), rows))
    show({either(f"{model.name}, in float", f"{model.name}, 浮点"): parity})
    if problems := parity.faults({"f32": ELSEWHERE, "q8_0": BLOCKS}.get(dtype, ROUNDED)):
        raise UserError(
            file.name,
            "; ".join(problems),
            either("the same as the folder it was made from", "与来源文件夹相同"),
            either("it was deleted; try --dtype f32, or --to vllm", "已删除; 请试 --dtype f32, 或 --to vllm"),
            exit_code=3,
        )
    manifest = read_manifest(model)
    made = {"gguf": {"dtype": dtype, "parity": parity.to_dict()}}
    write_manifest(out, replace(manifest, merged=manifest.merged | made))
    write_whole(out / "README.md", card(manifest))
    return Proof(file, actor, rows)


def write_ollama(model: Path, out: Path, proof: Proof) -> None:
    """Write a Modelfile beside a GGUF file, checked on every row, and an example of a request.

    Raises:
        UserError: Ollama's template language cannot write this prompt.
    """
    actor, tokenizer = proof.actor, proof.actor.tokenizer
    fmt, bos = actor.format_for(proof.rows[0].question), _own_bos(proof.file, tokenizer)
    pieces = read_pieces(tokenizer, fmt, bos)
    for row in proof.rows:
        given = (row.question, row.actions, row.history, row.system)
        own = actor.format_for(row.question, row.history)
        check_pieces(pieces, prompt.messages(own, *given), prompt.render(tokenizer, own, *given), bos)
    stops = [tokenizer.convert_ids_to_tokens(id) for id in actor.engine.stop_ids]
    context = min(actor.engine.context or MOST_CONTEXT, MOST_CONTEXT)
    write_whole(out / "Modelfile", modelfile(proof.file.name, pieces, stops, context))
    row = proof.rows[0]
    body = {"model": "NAME", "stream": True, "messages": prompt.messages(fmt, row.question, row.actions)}
    _write_json(out / "request.json", body)
    _add(
        out / "README.md",
        "Ollama",
        "ollama create NAME -f Modelfile\ncurl localhost:11434/api/chat -d @request.json",
        "Ollama has no constraint: check what it writes (`actune serve ... --engine` drops unlisted actions). "
        "Ollama 没有约束: 请检查其输出。",
    )


def _own_bos(file: Path, tokenizer: Any) -> str:
    """Return the text of the BOS that llama.cpp puts before a prompt by itself, if the file says so."""
    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    return str(tokenizer.bos_token or "") if field is not None and field.contents() else ""


def write_vllm(model: Path, out: Path, trust_remote_code: bool) -> None:
    """Write a merged folder for vLLM: how it is started, and a request whose answer cannot hold an unlisted action."""
    if model.parent != out:
        shutil.copytree(model, out / "model", ignore=shutil.ignore_patterns(".*"))
    manifest, row = read_manifest(model), load_rows([model / PARITY])[0]
    tokenizer = load_tokenizer(model, trust_remote_code)
    fmt = prompt.PromptFormat.from_dict(manifest.prompt)
    tag = json.dumps(structural_tag(row.actions), ensure_ascii=False)
    body = {
        "model": "actor",
        # Ids, not messages: our renderer's prompt reaches the model as it is.
        "prompt": prompt.render_ids(tokenizer, fmt, row.question, row.actions, row.history, row.system),
        "max_tokens": 256,
        "temperature": 0,
        "structured_outputs": {"structural_tag": tag},
    }
    _write_json(out / "request.json", body)
    write_whole(out / "README.md", card(manifest))
    _add(
        out / "README.md",
        "vLLM",
        "vllm serve ./model --served-model-name actor\n"
        "curl localhost:8000/v1/completions -H 'Content-Type: application/json' -d @request.json",
        "With the backend `guidance` send `actune grammar --format lark` as `structured_outputs.grammar` instead. "
        "若用 `guidance` 后端, 请改发 lark 语法。",
    )


def tell_losses(model: Path, out: Path, to: str) -> None:
    """Print, and write into the README, what of the run does not hold in the programs that this is for.

    Args:
        model: The merged folder.
        out: The export, with its README.
        to: Its form.
    """
    losses = READERS[to].losses(not Acting.from_dict(read_manifest(model).acting).neutral)
    for loss in losses:
        print(f"{to}: {loss}")
    readme = out / "README.md"
    lines = "\n".join(f"* {loss}" for loss in losses)
    title = either("What does not hold here, unlike in actune", "与在 actune 中不同, 此处不成立的")
    write_whole(readme, f"{readme.read_text(encoding='utf-8')}\n## {title}\n{lines}\n")


def write_peft(case: Case, out: Path) -> None:
    """Write the adapter alone, with its tokenizer and prompt."""
    for file in case.folder.glob("adapter_*"):
        shutil.copyfile(file, out / file.name)
    config = json.loads((out / ADAPTER).read_text(encoding="utf-8"))
    # A path of this machine says nothing elsewhere.
    _write_json(out / ADAPTER, config | {"base_model_name_or_path": case.manifest.base["id"]})
    case.tokenizer().save_pretrained(out)
    shutil.copyfile(case.top / PARITY, out / PARITY)
    write_manifest(out, case.manifest)
    write_whole(out / "README.md", card(case.manifest, apart=True))


def _write_json(file: Path, content: Any) -> None:
    write_whole(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _add(file: Path, title: str, lines: str, note: str) -> None:
    text = file.read_text(encoding="utf-8")
    write_whole(file, f"{text}\n## {title}\n```\n{lines}\n```\n{note}\n")
