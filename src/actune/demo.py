"""``actune demo``: from sixty dialogues to a model that acts, before the user's eyes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from actune.errors import UserError, either

if TYPE_CHECKING:
    from rich.console import Console

    from actune.actor import Actor

# Written for the demo; the rows it trains on hold neither these questions nor most of these actions.
QUESTIONS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "en": [
        ("My throat is as dry as sand.", ("cup-fill", "window-open", "drum-play", "wear-raincoat")),
        ("It got awfully dark in here.", ("lantern-light", "guitar-tune", "soup-stir")),
        ("What is your favourite colour?", ("robot-dance", "cake-slice", "bell-ring")),
        (
            "Wash the grapes first, then put them on the table.",
            ("grapes-wash", "grapes-serve", "grapes-peel", "tv-mute"),
        ),
    ],
    "zh": [
        ("嗓子干得冒烟了。", ("杯子-接水", "窗户-打开", "敲鼓-开始", "换衣服-雨衣")),
        ("屋里怎么突然这么黑。", ("灯笼-点亮", "吉他-调音", "搅拌-汤")),
        ("你最喜欢什么颜色？", ("跳舞-机器人舞", "切开-蛋糕", "摇铃-一下")),
        ("先把葡萄洗了，再端上桌。", ("清洗-葡萄", "端上-葡萄", "剥皮-葡萄", "电视-静音")),
    ],
}
MAX_TOKENS = 80


def demo(*, lang: Literal["en", "zh"] = "en", base: str = "smollm2", out: Path | None = None) -> int:
    """Train on the example dialogues and ask the result four questions it never saw, base beside tuned.

    Args:
        lang: Language of the dialogues.
        base: The base; a bundled one is fetched if it is not there.
        out: Folder of the run [runs/demo-LANG]; what an earlier demo left there is used, or gone on with.

    Returns:
        Exit status: 0, or that of an interrupted training.

    Raises:
        UserError: The base cannot be had, or the folder holds something else.
    """
    from rich.console import Console

    console = Console(highlight=False)
    table = example(f"actions_{lang}.csv")
    run = out or Path(f"runs/demo-{lang}")
    _fetch(base)
    if status := _train(table, base, run):
        print(either("run the demo again to go on", "再次运行演示即可继续"))
        return status
    _compare(console, base, run, lang)
    names = "、".join(QUESTIONS[lang][0][1])
    console.print(either("\nNext, try:", "\n接下来试试:"))
    console.print(f'  actune say {run} "{QUESTIONS[lang][0][0]}" --actions {names}', soft_wrap=True)
    console.print(f"  actune chat {run} --actions {names}", soft_wrap=True)
    console.print(f"  actune check {table}", soft_wrap=True)
    console.print(either("\nSee it act, in your browser, beside its base:", "\n在浏览器里看它表演, 与基座同台对比:"))
    console.print(f"  actune serve {run} --compare", soft_wrap=True)
    return 0


def example(name: str) -> Path:
    """Find an example table: in the installed package, else in the checkout.

    Raises:
        UserError: It is in neither.
    """
    here = Path(__file__).parent
    for folder in (here / "examples", here.parent.parent / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(name, either("not found", "未找到"), either("an example table", "示例表格"), "pip install actune")


def _fetch(base: str) -> None:
    from actune.base.bundled import BUNDLED
    from actune.base.pull import pull

    if base in BUNDLED:
        pull(base)


def _train(table: Path, base: str, run: Path) -> int:
    from actune.base.source import resolve
    from actune.tune.command import WRITTEN_LAST, train
    from actune.tune.options import TrainOptions
    from actune.tune.run import read_manifest

    if not (run / WRITTEN_LAST).is_file():
        # A look within minutes, at what sixty dialogues alone do; rows of ours take half as long again.
        options, begun = TrainOptions(practice="off"), (run / "actune.json").is_file()
        return train([table], base=base, out=run, options=options, resume=begun)
    trained = read_manifest(run).base
    if trained["sha256"] != resolve(base).sha256:
        raise UserError(
            f"--out {run}",
            either(f"a run on another base, {trained['id']}", f"基于另一个基座 {trained['id']} 的训练结果"),
            either(f"a run on {base}, or a new folder", f"基于 {base} 的训练结果, 或新文件夹"),
            either("give another --out", "换一个 --out"),
        )
    print(either(f"{run} is there from an earlier demo", f"{run} 已由之前的演示生成"))
    return 0


def _compare(console: Console, base: str, run: Path, lang: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from actune.actor import load_actor

    answers = [_answers(load_actor(name), lang) for name in (base, str(run))]
    shown = Table(show_lines=True, title=either("Questions it never saw", "从未见过的问题"))
    for heading in (either("question", "问题"), either("base", "基座"), either("tuned", "微调后")):
        shown.add_column(heading, ratio=1, overflow="fold")
    for (question, names), before, after in zip(QUESTIONS[lang], *answers, strict=True):
        offered = escape("".join(f"\n- {name}" for name in names))
        shown.add_row(f"{escape(question)}[dim]{offered}[/dim]", escape(before), escape(after))
    console.print(shown)


def _answers(actor: Actor, lang: str) -> list[str]:
    from actune.script.events import write

    return [write(actor.events(question, names, max_tokens=MAX_TOKENS)).strip() for question, names in QUESTIONS[lang]]
