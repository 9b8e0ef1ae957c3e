import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actune.base.chat_templates import chat_template, stop_token_text
from actune.errors import UserError

TALK = [
    {"role": "system", "content": "Rules: \n- a"},
    {"role": "user", "content": "饿了"},
    {"role": "assistant", "content": "好。"},
    {"role": "user", "content": "谢谢"},
]


def refuse(text: str) -> None:
    raise ValueError(text)


def render(name: str, messages: list[dict[str, str]], prompt: bool = True) -> str:
    # trim_blocks and lstrip_blocks as transformers sets them.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(chat_template(name))
    return template.render(messages=messages, add_generation_prompt=prompt, bos_token="<B>")


def test_chatml_is_the_documented_format():
    assert render("chatml", TALK) == (
        "<|im_start|>system\nRules: \n- a<|im_end|>\n<|im_start|>user\n饿了<|im_end|>\n"
        "<|im_start|>assistant\n好。<|im_end|>\n<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n"
    )


def test_gemma_puts_the_system_text_before_the_first_user_turn_only():
    assert render("gemma", TALK) == (
        "<B><start_of_turn>user\nRules: \n- a\n\n饿了<end_of_turn>\n<start_of_turn>model\n好。<end_of_turn>\n"
        "<start_of_turn>user\n谢谢<end_of_turn>\n<start_of_turn>model\n"
    )
    assert render("gemma", TALK[1:2], prompt=False) == "<B><start_of_turn>user\n饿了<end_of_turn>\n"
    with pytest.raises(ValueError, match="alternate"):
        render("gemma", [TALK[1], TALK[1]])


def test_llama_3_is_the_documented_format():
    assert render("llama-3", TALK[:3], prompt=False) == (
        "<B><|start_header_id|>system<|end_header_id|>\n\nRules: \n- a<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n饿了<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n好。<|eot_id|>"
    )
    assert render("llama-3", TALK[:2]).endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama-3"])
def test_the_stop_token_ends_an_assistant_message(name):
    assert render(name, TALK[1:3], prompt=False).strip().endswith("好。" + stop_token_text(name))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="chatml, gemma, llama-3"):
        chat_template("vicuna")
