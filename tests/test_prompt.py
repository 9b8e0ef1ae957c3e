from __future__ import annotations

from pathlib import Path

import pytest

from actune import prompt
from actune.data.rows import Row, Turn
from actune.errors import UserError
from actune.prompt import PromptFormat
from tiny_actor import byte_tokenizer

NAMES = ("做饭-炒冬瓜", "杯子-倒水", "换衣服-裙子", "切开-西瓜")
SCRIPT = "我来做饭。\n<&做饭-炒冬瓜&>\n炒冬瓜香喷四溢。"
LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "回答用户的问题,根据需要可在下列动作中选择一个或多个执行,注意动作执行和问题回答的先后顺序。\n\n"
    "可选动作: \n- 做饭-炒冬瓜\n- 杯子-倒水\n- 换衣服-裙子\n- 切开-西瓜<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n饿了<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    "我来做饭。\n<&做饭-炒冬瓜&>\n炒冬瓜香喷四溢。<|eot_id|>"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
SILENT = (
    NO_SYSTEM.replace("{{ raise_exception('no system') }}", "")
    .replace("{{ '['", "{% if m['role'] != 'system' %}{{ '['")
    .replace("eos_token }}", "eos_token }}{% endif %}")
)


def text_of(tokenizer, fmt, *args, **options) -> str:
    return tokenizer.decode(prompt.render_ids(tokenizer, fmt, *args, **options))


def test_llama_3_byte_for_byte():
    tokenizer = byte_tokenizer("llama-3")
    fmt = PromptFormat.for_rows([Row(NAMES, "饿了", SCRIPT)], tokenizer)
    ids = prompt.render_ids(tokenizer, fmt, "饿了", NAMES) + prompt.answer_ids(tokenizer, fmt, SCRIPT)
    assert tokenizer.decode(ids).encode() == LLAMA_3.encode()
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_bos_written_twice_by_the_template_stands_once():
    tokenizer = byte_tokenizer("llama-3")
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    ids = prompt.render_ids(tokenizer, PromptFormat.for_rows((), tokenizer), "hi", ())
    assert ids.count(tokenizer.bos_token_id) == 1


def test_chatml_bos_that_opens_every_turn_is_kept():
    tokenizer = byte_tokenizer("chatml")
    ids = prompt.render_ids(tokenizer, PromptFormat.for_rows((), tokenizer), "hi", ())
    assert ids.count(tokenizer.bos_token_id) == 3


def test_empty_list_persona_and_language():
    zh = PromptFormat("zh", prompt.SYSTEM["zh"])
    en = PromptFormat("en", prompt.SYSTEM["en"])
    assert prompt.system_text(zh, ()).endswith("可选动作: \n（无）")
    assert prompt.system_text(en, ()).endswith("Available actions: \n(none)")
    assert prompt.system_text(en, ["a", "b"], "You are Bo.").startswith("You are Bo.\n\nAnswer")
    assert prompt.system_text(en, ["a", "{actions}"]).endswith("\n- a\n- {actions}")
    tokenizer = byte_tokenizer()
    assert PromptFormat.for_rows([Row((), "饿了", "好")], tokenizer).language == "zh"
    assert PromptFormat.for_rows([Row((), "hungry", "ok")], tokenizer).language == "en"


def test_own_template(tmp_path: Path):
    tokenizer = byte_tokenizer()
    file = tmp_path / "我的 template.txt"
    file.write_text("Braces {stay} here:\n{actions}\n", encoding="utf-8")
    fmt = PromptFormat.for_rows((), tokenizer, template_file=file)
    assert prompt.system_text(fmt, ["a"]) == "Braces {stay} here:\n- a"
    file.write_text("nothing", encoding="utf-8")
    with pytest.raises(UserError, match=r"\{actions\}"):
        PromptFormat.for_rows((), tokenizer, template_file=file)
    file.write_bytes(b"\xff\xfe\xfa{actions}")
    with pytest.raises(UserError, match="UTF-8"):
        PromptFormat.for_rows((), tokenizer, template_file=file)
    with pytest.raises(UserError, match="nope"):
        PromptFormat.for_rows((), tokenizer, chat_template="nope")


@pytest.mark.parametrize(
    ("family", "stop"), [("chatml", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("llama-3", "<|eot_id|>")]
)
def test_base_without_template_gets_the_fitting_one_and_says_so(family, stop, caplog):
    tokenizer = byte_tokenizer(family, template=None)
    fmt = PromptFormat.for_rows((), tokenizer)
    assert fmt.chat_template == family
    assert family in caplog.text
    assert prompt.stop_token(tokenizer, fmt) == tokenizer.convert_tokens_to_ids(stop)
    assert PromptFormat.from_dict(fmt.to_dict()) == fmt
    assert "Available actions" in text_of(tokenizer, fmt, "hi", ["a"])


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT])
def test_template_without_system_turn_gets_the_text_in_the_first_user_turn(template, caplog):
    prompt._say_merged.cache_clear()
    tokenizer = byte_tokenizer("chatml", template)
    fmt = PromptFormat.for_rows((), tokenizer)
    history = [Turn("user", "one"), Turn("assistant", "two")]
    text = text_of(tokenizer, fmt, "three", ["a"], history)
    assert text.startswith("<|im_start|>[user]Answer the user's question.")
    assert text.endswith("- a\n\none<|im_end|>[assistant]two<|im_end|>[user]three<|im_end|>[assistant]")
    assert "no system turn" in caplog.text


def test_turns_that_no_template_takes_are_an_error():
    tokenizer = byte_tokenizer("gemma")
    history = [Turn("user", "one"), Turn("user", "two")]
    with pytest.raises(UserError, match="alternate"):
        text_of(tokenizer, PromptFormat.for_rows((), tokenizer), "x", (), history)


def test_thinking_is_off_by_switch_and_without_one():
    switch = (
        byte_tokenizer("chatml").chat_template
        + "{% if add_generation_prompt and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    )
    forced = byte_tokenizer("chatml").chat_template + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    for template in (switch, forced):
        tokenizer = byte_tokenizer("chatml", template)
        text = text_of(tokenizer, PromptFormat.for_rows((), tokenizer), "hi", ())
        assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_stop_token_falls_back_to_the_end_of_text():
    tokenizer = byte_tokenizer("chatml", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    fmt = PromptFormat.for_rows((), tokenizer)
    assert prompt.stop_token(tokenizer, fmt) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError):
        prompt.stop_token(tokenizer, fmt)


def test_full_context_drops_oldest_turns_never_the_list():
    tokenizer = byte_tokenizer("gemma")
    fmt = PromptFormat.for_rows((), tokenizer)
    history = [Turn("user", "OLD"), Turn("assistant", "old"), Turn("user", "NEW"), Turn("assistant", "new")]
    whole = prompt.render_ids(tokenizer, fmt, "now", ["act-one"], history)
    assert prompt.render_ids(tokenizer, fmt, "now", ["act-one"], history, room=len(whole)) == whole
    text = text_of(tokenizer, fmt, "now", ["act-one"], history, room=len(whole) - 1)
    assert "OLD" not in text
    assert "old" not in text
    assert "NEW" in text
    assert "- act-one" in text
    with pytest.raises(UserError, match="at most 20"):
        prompt.render_ids(tokenizer, fmt, "now", ["act-one"], history, room=20)


def test_long_history_is_cut_in_few_looks(monkeypatch):
    tokenizer = byte_tokenizer("chatml")
    fmt = PromptFormat.for_rows((), tokenizer)
    history = [Turn("user" if n % 2 == 0 else "assistant", f"turn {n} " * 3) for n in range(400)]
    wanted = prompt.render_ids(tokenizer, fmt, "now", ["a"], history[360:])
    looks, render = [], prompt.render
    monkeypatch.setattr(prompt, "render", lambda *args: looks.append(1) or render(*args))
    assert prompt.render_ids(tokenizer, fmt, "now", ["a"], history, room=len(wanted)) == wanted
    assert len(looks) < 15
