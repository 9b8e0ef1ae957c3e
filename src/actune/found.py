"""What is known of something that acts before its weights are loaded: its folder, its manifest, its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actune.base.source import Source, resolve
from actune.errors import UserError, either
from actune.prompt import PromptFormat
from actune.script.acting import Acting
from actune.tune.run import MANIFEST, Manifest, read_manifest

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Found:
    """A run, a checkpoint, a merged folder, or a base.

    Args:
        name: As the user named it.
        manifest: Of a run or merged folder; a base has none.
    """

    name: str
    manifest: Manifest | None

    @property
    def folder(self) -> Path:
        """The folder, if the name is one."""
        return Path(self.name)

    @property
    def tuned(self) -> bool:
        """Whether it is an adapter that needs a base."""
        return self.manifest is not None and (self.folder / ADAPTER).is_file()

    @property
    def format(self) -> PromptFormat | None:
        """The prompt's format; None for a base."""
        return None if self.manifest is None else PromptFormat.from_dict(self.manifest.prompt)

    @property
    def acting(self) -> Acting | None:
        """How it is decided to act; None for a base."""
        return None if self.manifest is None else Acting.from_dict(self.manifest.acting)

    def model(self, base: str | None = None) -> Path:
        """Find the folder of the weights.

        Args:
            base: Where the run's base is now, if it moved.

        Raises:
            UserError: It is not there, or it is not the one that was tuned.
        """
        if self.manifest is not None and self.tuned:
            return base_of(self.manifest, base).path
        return self.folder if self.folder.is_dir() else resolve(self.name).path

    def tokenizer(self, base: str | None = None) -> Path:
        """Find the folder of the tokenizer: a run has it on top, its checkpoints need not.

        Raises:
            UserError: See `model`, which is asked last.
        """
        places = [self.folder, self.folder.parent] if self.tuned else [self.folder]
        found = next((place for place in places if (place / "tokenizer_config.json").is_file()), None)
        return found or self.model(base)


def find(run: str | Path) -> Found:
    """Find something that acts.

    Args:
        run: A run, a checkpoint in a run, a merged folder, the folder or the name of a base.

    Raises:
        UserError: The folder holds none of these.
    """
    folder = Path(run)
    if folder.is_dir() and not any((folder / name).is_file() for name in (ADAPTER, "config.json")):
        raise UserError(
            str(run),
            either("no adapter and no model in it", "其中没有适配器, 也没有模型"),
            either("a run, a checkpoint, a merged folder or a base", "训练结果, 检查点, 合并后的文件夹或基座"),
            either(
                "finish the training (actune train ... --resume), or name a checkpoint",
                "完成训练 (--resume), 或指定检查点",
            ),
        )
    there = any((folder / name).is_file() for name in (ADAPTER, MANIFEST))
    return Found(str(run), read_manifest(folder) if there else None)


def base_of(manifest: Manifest, override: str | None) -> Source:
    """Find the base of a run and make sure that it is the one that was tuned.

    Raises:
        UserError: It is not there, or its hash differs.
    """
    path, wanted = str(manifest.base["path"]), manifest.base["sha256"]
    source = resolve(override or (path if Path(path).is_dir() else manifest.base["id"]))
    if source.sha256 != wanted:
        raise UserError(
            override or str(source.path),
            f"sha256 {source.sha256[:16]}",
            either(
                f"the base of this run: {manifest.base['id']}, sha256 {wanted[:16]}",
                f"本次训练的基座: {manifest.base['id']}, sha256 {wanted[:16]}",
            ),
            either("name the right folder with --base", "用 --base 指定正确的文件夹"),
        )
    return source
