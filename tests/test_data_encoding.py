from pathlib import Path

import pytest

from actune.data.columns import is_column
from actune.data.encoding import decode
from actune.errors import UserError

EXAMPLES = Path(__file__).parent.parent / "examples"
ZH = (EXAMPLES / "actions_zh.csv").read_text(encoding="utf-8")
EN = (EXAMPLES / "actions_en.csv").read_text(encoding="utf-8")
TW = '行動,問題,回答\n做飯-炒冬瓜、杯子-倒水,我餓了,"我來做飯。\n<&做飯-炒冬瓜&>\n香噴噴的。"\n'
HEAD = "actions,input,output\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *[(ZH, name) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030")],
        *[(HEAD + ZH.split("\n", 1)[1], name) for name in ("utf-16-le", "gb18030")],
        *[(EN, name) for name in ("utf-8", "utf-16-le", "gb18030")],
        *[(TW, name) for name in ("utf-8", "big5", "gb18030", "utf-16-le")],
        *[(HEAD + TW.split("\n", 1)[1], name) for name in ("big5", "gb18030")],
        (HEAD + "无,饿了,好\n", "gb18030"),
        (HEAD + "無,餓了,好\n", "big5"),
        (HEAD + "-,hi😀,ok😀\n", "gb18030"),
        (HEAD + "cook、eat,I’m hungry,<&cook&>\n", "gb18030"),
        (HEAD + "cook,I’m hungry,<&cook&>\n", "cp1252"),
        (HEAD + "-,Müller größer,schön\n", "cp1252"),
        (HEAD + "-,café “x” déjà — naïve,Me too\n", "cp1252"),
        (HEAD + '-,"Señor, ¿qué tal? ¡Olé!",está aquí\n', "cp1252"),
        (HEAD + "-,5 € for Françoise’s,“Oui…”\n", "cp1252"),
    ],
)
def test_each_encoding_is_found_out(text: str, encoding: str) -> None:
    decoded = decode(text.encode(encoding), None, is_column)
    assert decoded.text == text
    assert decoded.encoding == encoding
    assert not decoded.readings
    assert not decoded.bad_lines


def test_cp1252_apostrophe_is_not_read_as_gb18030_and_the_other_reading_is_told() -> None:
    data = (HEAD + "-,I’m hungry,Me too\n").encode("cp1252")
    assert "抦" in data.decode("gb18030")
    decoded = decode(data, None, is_column)
    assert decoded.encoding == "cp1252"
    assert decoded.runner_up is not None
    assert decoded.runner_up[0] == "gb18030"
    assert "I’m" in decoded.runner_up[1]
    assert "抦" in decoded.runner_up[2]


def test_a_doubt_shows_both_readings() -> None:
    decoded = decode((HEAD + "A的B,吃,x\n").encode("gb18030"), None, is_column)
    assert decoded.doubt_line == 2
    assert dict(decoded.readings)["gb18030"] == "A的B,吃,x"
    assert "腔" in dict(decoded.readings)["big5"]


@pytest.mark.parametrize(
    ("data", "encoding", "line"),
    [
        ("行动,问题,回答\n无,饿了,好\n无,饿了,".encode("gb18030") + b"\xff\n", "gb18030", 3),
        ((HEAD + "无,饿了,好\n无,饿了,").encode("gb18030") + b"\xff\n", "gb18030", 3),
        ("行动,问题,回答\n无,饿了的人,好\n无,饿".encode() + b"\xe5\n", "utf-8", 3),
        ("行动,问题,回答\r无".encode("utf-16") + b"\x00", "utf-16", 2),
    ],
)
def test_undecodable_bytes_are_told_by_line(data: bytes, encoding: str, line: int) -> None:
    decoded = decode(data, None, is_column)
    assert (decoded.encoding, decoded.bad_lines) == (encoding, (line,))


def test_the_users_word_decides() -> None:
    data = (HEAD + "-,I’m,x\n").encode("cp1252")
    assert "抦" in decode(data, "gb18030", is_column).text
    assert decode(b"\xef\xbb\xbfa", "utf8", is_column).text == "a"


@pytest.mark.parametrize("name", ["klingon", "hex", "rot13", "undefined", "utf-8\0"])
def test_an_unknown_encoding_is_wrong_use(name: str) -> None:
    with pytest.raises(UserError) as caught:
        decode(b"a", name, is_column)
    assert caught.value.exit_code == 2
