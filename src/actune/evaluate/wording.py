"""What the scores are called and what they mean, in both languages."""

from __future__ import annotations

METRIC_NAMES: dict[str, tuple[str, str]] = {
    "valid": ("valid tags", "标签有效"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "f1": ("F1 of actions", "动作 F1"),
    "exact_act": ("exactly right, acting", "完全正确 (有动作)"),
    "exact_none": ("exactly right, idle", "完全正确 (无动作)"),
    "order": ("order of actions", "动作顺序"),
    "position": ("words before / after", "话语与动作先后"),
    "none_right": ("left out rightly", "该不做时不做"),
    "false_action": ("acts where none fits", "不该做时做了"),
    "repeat": ("repeats", "重复动作"),
    "unclosed": ("unclosed tag", "标签未闭合"),
    "cut": ("cut short", "被截断"),
    "chrf": ("words, chrF", "话语相似度 chrF"),
    "ppl": ("perplexity of reference", "参考回答困惑度"),
    "prevented_count": ("prevented, per answer", "约束介入次数 (每答)"),
    "prevented_mass": ("prevented probability", "被约束排除的概率"),
}

METRIC_MEANINGS: dict[str, tuple[str, str]] = {
    "valid": ("well-formed, listed tags / tags", "格式正确且在列表中的标签 / 全部标签"),
    "precision": ("named and wanted / named", "说到且应做的动作 / 说到的动作"),
    "recall": ("named and wanted / wanted", "说到且应做的动作 / 应做的动作"),
    "f1": ("harmonic mean of precision and recall, counts summed over rows", "精确率与召回率的调和平均, 各行计数相加"),
    "exact_act": ("whole sequence right / rows that want actions", "动作序列全对 / 需要动作的行"),
    "exact_none": ("no tag at all / rows that want no action", "没有任何标签 / 不需要动作的行"),
    "order": ("pairs in the wanted order / pairs that both have", "顺序正确的动作对 / 两边都有的动作对"),
    "position": (
        "actions with words before and after as in the reference / actions that both have",
        "前后有无话语与参考一致的动作 / 两边都有的动作",
    ),
    "none_right": ("no action named / rows that want none", "没有说到动作 / 不需要动作的行"),
    "false_action": ("a listed action performed / rows that want none", "做了列表中的动作 / 不需要动作的行"),
    "repeat": ("actions named again, more often than wanted / named", "多余的重复动作 / 说到的动作"),
    "unclosed": ("answers with a tag that does not close / answers", "有未闭合标签的回答 / 全部回答"),
    "cut": ("answers that ran out of tokens / answers", "词元用尽的回答 / 全部回答"),
    "chrf": ("chrF2 of the words against the reference, 0 to 100", "话语与参考的 chrF2, 0 到 100"),
    "ppl": ("exp of mean -log p of the reference's tokens", "参考回答每词元 -log p 均值的指数"),
    "prevented_count": (
        "steps at which the likeliest token was forbidden, per answer",
        "最可能的词元被禁止的步数, 每个回答",
    ),
    "prevented_mass": ("probability of all that was forbidden at those steps", "这些步中被禁止的总概率"),
}

SLICE_NAMES: dict[str, tuple[str, str]] = {
    "wanted": ("actions wanted", "应做的动作数"),
    "list": ("names on the list", "列表长度"),
    "source": ("source", "来源"),
    "language": ("language", "语言"),
    "actions": ("actions in training", "动作是否训练过"),
    "row": ("row in training", "该行是否训练过"),
}

LABEL_NAMES: dict[str, tuple[str, str]] = {
    "seen": ("seen", "见过"),
    "unseen": ("not seen", "没见过"),
    "trained": ("trained on", "训练过"),
    "new": ("new", "新的"),
}

FORGETTING = (
    "forgetting, nats a token",
    "遗忘, 每词元纳特",
)
FORGETTING_MEANING = (
    "mean KL(base || tuned) on the base's greedy answers to 60 general questions",
    "基座对 60 个通用问题的贪心回答上 KL(基座 || 微调后) 的均值",
)


def show(name: str, value: float | None) -> str:
    """Write a value of a metric with three meaningful digits at most."""
    if value is None:
        return "-"
    if name == "chrf":
        return f"{value:.1f}"
    return f"{value:.4g}" if name == "ppl" else f"{value:.3f}"
