import pytest

from actune.script.catalogue import catalogue, name_problem, split_names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        (" a", "blanks"),
        ("a\u3000", "blanks"),
        ("a<&b", "tag"),
        ("a&>b", "tag"),
        ("a\nb", "control"),
        ("a\u2028b", "control"),
        ("a\x00b", "control"),
        ("a\ud800b", "control"),
    ],
)
def test_bad_names_are_refused(name: str, problem: str) -> None:
    assert name_problem(name) == problem
    with pytest.raises(ValueError, match="not allowed"):
        catalogue([name])


@pytest.mark.parametrize("name", ["做饭-炒冬瓜", "tv-turn on", "a,b/c", "a&", "a<", ">a", "&", "<", "😀"])
def test_good_names_are_taken(name: str) -> None:
    assert catalogue([name]) == (name,)


def test_order_is_kept_and_doubles_are_refused() -> None:
    assert catalogue(["b", "a"]) == ("b", "a")
    with pytest.raises(ValueError, match="twice"):
        catalogue(["a", "b", "a"])


@pytest.mark.parametrize("cell", ["", "  ", "无", "None", "-", "（无）"])
def test_words_for_none_give_no_names(cell: str) -> None:
    assert split_names(cell) == []


def test_cell_is_split() -> None:
    assert split_names(" 做饭-炒冬瓜、tv-turn on 、a,b/c") == ["做饭-炒冬瓜", "tv-turn on", "a,b/c"]
    assert split_names("a、、b") == ["a", "", "b"]
