"""The command line: one table from a command to the function that is the command."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from actune import __version__
from actune.errors import UserError, either
from actune.terminal import survive

# Functions are named, not imported: `actune --help` must not wait for torch.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "check": ("actune.check:check", "Check tables of dialogues.", "检查对话表格。"),
    "pull": ("actune.base.pull:pull_command", "Fetch a bundled base model.", "下载内置的基座模型。"),
    "train": ("actune.tune.command:train", "Tune a base on tables of dialogues.", "用对话表格微调基座模型。"),
    "plan": (
        "actune.tune.plan_command:plan",
        "Tell what a training needs and takes; nothing is loaded.",
        "训练前估算内存与时间, 不加载模型。",
    ),
    "sweep": ("actune.sweep.command:sweep", "Look for the options that train best.", "搜索最好的训练选项。"),
    "practice": (
        "actune.tune.practice:practice",
        "Let a base practise acting, once; trainings start from there.",
        "让基座先练习行动 (只需一次), 之后的训练由此开始。",
    ),
    "say": (
        "actune.say:say",
        "Ask one question; words and actions come as they are made.",
        "问一句, 看模型说什么、做什么。",
    ),
    "chat": ("actune.say:chat", "Talk over several turns.", "多轮对话。"),
    "serve": (
        "actune.serve.command:serve",
        "Put an actor behind HTTP, and on a stage.",
        "提供 HTTP 服务, 并登上舞台。",
    ),
    "eval": (
        "actune.evaluate.command:evaluate",
        "Score how well a model acts; base beside tuned.",
        "评测动作质量, 微调前后对比。",
    ),
    "export": (
        "actune.export.command:export",
        "Write a run for llama.cpp, Ollama, vLLM or PEFT.",
        "导出给 llama.cpp, Ollama, vLLM 或 PEFT。",
    ),
    "grammar": (
        "actune.grammar:grammar",
        "Print the constraint for other programs.",
        "输出供其他程序使用的约束。",
    ),
    "merge": ("actune.export.merge:merge", "Fold a run into its base, and prove it.", "把训练结果合并进基座并验证。"),
    "stage": (
        "actune.serve.replay:stage",
        "Open the stage without a model: recorded answers.",
        "无需模型打开舞台: 播放录制的回答。",
    ),
    "bench": (
        "actune.bench:bench",
        "Measure how fast a run speaks: apart, merged, llama.cpp.",
        "测量速度: 分离、合并、llama.cpp。",
    ),
    "demo": ("actune.demo:demo", "Train on the examples and show the result.", "用示例训练并展示结果。"),
}


def app() -> App:
    """Build the command line from `COMMANDS`."""
    result = App(
        name="actune",
        version=__version__,
        help=either(
            "A spreadsheet of dialogues becomes a language model that acts.", "把对话表格变成会行动的语言模型。"
        ),
    )
    for name, (path, en, zh) in COMMANDS.items():
        result.command(path, name=name, help=either(en, zh))
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its status.

    Exit status: what the command returns (0 if nothing), 2 for wrong use or what a `UserError` says, 130 for Ctrl-C.
    """
    survive()
    try:
        status = app()(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except UserError as error:
        # In one piece: several processes may say it at once.
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except CycloptsError:
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)
