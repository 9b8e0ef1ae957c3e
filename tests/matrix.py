"""The architecture matrix: what each family of models can do, found out on tiny random ones.

`python tests/matrix.py` tries all of it and writes docs/architectures.md (4 minutes on one core; it needs the bundled
bases, for words that llama.cpp's converter knows). test_architectures.py compares the table with what it finds.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from actune.export.gguf import TOOL
from families import FAMILIES, Family
from family_gguf import converted, told
from family_trial import Trial, make_base

DOCS = Path(__file__).parents[1] / "docs" / "architectures.md"
HEADS = ("family", "class in transformers", "trains", "fast path", "resume", "merge", "constrained", "GGUF")
INTRO = """\
# Architectures
# 支持的架构

Written by `python tests/matrix.py`; do not edit. Each line was found out with a tiny random model of the family (two
layers, its own chat format), by the functions behind `actune train`, `merge`, `say` and `export`.

本表由 `python tests/matrix.py` 生成, 请勿手改。每一行都由该系列的微型随机模型 (两层, 自己的对话格式) 经
`actune train`, `merge`, `say`, `export` 背后的函数实测得出。

"""
NOTES = f"""
What the columns say:

* **trains**: the prompt is the one that the family's documentation shows; two steps with all guards on; every linear
  module but the head has an adapter that moved, and so has every layer's stack of experts. Routers stay as they are.
* **fast path**: it proved itself on the base, and its losses are those of the plain path. "But its own": that part is
  computed by the model's own code. Else: why training goes the plain way, which is slower and gives the same.
* **resume**: from a checkpoint on, the run ends as the undisturbed one, to the bit.
* **merge**: the merged folder equals base and adapter kept apart (fp32, same greedy text), with the base's own names
  of weights in its files, so that other programs load it.
* **constrained**: a model that is pushed to begin tags writes listed actions and nothing else in them.
* **GGUF**: llama.cpp's converter ({TOOL}) takes the base, here with words of a tokenizer that it knows, and llama.cpp
  (xllamacpp) says the same: prompt ids of our text and of messages in its own template engine, the ids that end an
  answer, likelihoods, greedy text. "Words not tried": the converter wants the family's own words, which are not on the
  machine that made this table; a stand-in was converted, and only what the weights say was compared, by ids.
  The tiny gpt-oss has no YaRN: with it llama.cpp answers otherwise at this width. Its prompt of messages ends before
  the channel `final`.

With `--dropout` (the recipe `origin` has it) stacked experts get no adapter, for peft has no dropout for them; with
`--quantize` they stay in float, for only linear modules are quantised. Where a part gets no adapter the run says so.
`--targets` names what gets one instead: ends of names, separated by commas, of modules (`q_proj`) or of stacked
experts (`experts.down_proj`).

Formats were compared with the examples in `tests/family_formats.py`, each with its source. A base that brings its own
Python code is refused without `--trust-remote-code`.

各列含义: trains 提示与该系列文档一致, 训练两步且所有检查通过, 除输出头外的线性模块与各层专家权重都带适配器 (路由不变);
fast path 快速路径在该基座上证明等价, 否则写明改走普通路径的原因; resume 从检查点继续, 结果逐位相同;
merge 合并后与 "基座 + 独立适配器" 相同 (fp32); constrained 被强推去行动的模型也只写出列表中的动作;
GGUF 表示 llama.cpp 的转换器接受该基座, 且 llama.cpp 的提示词元、结束词元、似然与贪心文本一致
(words not tried: 只按词元比较了权重)。使用 `--dropout` 时专家权重不带适配器, 使用 `--quantize` 时专家权重保持浮点,
运行时会说明; `--targets` 可指定模块或专家权重名称的结尾。自带 Python
代码的基座须加 `--trust-remote-code`。
"""


def tried(family: Family, base: Path, work: Path) -> dict[str, str]:
    """Try all but the GGUF file.

    Returns:
        By column: `YES`, or what else is true.
    """
    trial = Trial(family, base, work)
    columns = {
        "class in transformers": trial.kind,
        "trains": trial.trains,
        "fast path": trial.fast,
        "resume": trial.resume,
        "merge": trial.merge,
        "constrained": trial.constrained,
    }
    return {"family": family.name} | {name: told(look) for name, look in columns.items()}


def committed() -> dict[str, dict[str, str]]:
    """Read the table in the docs, by family."""
    lines = [text.strip("| ").split(" | ") for text in DOCS.read_text(encoding="utf-8").splitlines()]
    return {cells[0]: dict(zip(HEADS, cells, strict=True)) for cells in lines if len(cells) == len(HEADS)}


def main() -> None:
    """Try everything and write it."""
    from conftest import train_tokenizer

    os.environ["ACTUNE_LANG"] = "en"
    rows = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    with tempfile.TemporaryDirectory() as top:
        words = train_tokenizer(Path(top))
        for family in FAMILIES:
            work = Path(tempfile.mkdtemp(dir=top))
            cells = tried(family, make_base(family, words, work / "base"), work)
            cells["GGUF"] = converted(family, Path(tempfile.mkdtemp(dir=top)))
            rows.append("| " + " | ".join(cells[head] for head in HEADS) + " |")
            print(rows[-1], file=sys.stderr)
            shutil.rmtree(work)
    DOCS.write_text(INTRO + "\n".join(rows) + "\n" + NOTES, encoding="utf-8")


if __name__ == "__main__":
    main()
