import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.data.delimited import Record, read_records

# A lone carriage return inside a cell comes back as a line feed; everything else comes back as it is.
CELL = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\t;、'), max_size=12)
ROWS = st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=6)


def plain(cell: str) -> str:
    return cell.replace("\r\n", "\n").replace("\r", "\n")


@given(ROWS, st.sampled_from([",", "\t", ";"]), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_what_the_standard_writer_writes_is_read_back(
    rows: list[list[str]], delimiter: str, end: str, quote_all: bool
) -> None:
    # Before Python 3.13 the writer quotes only the line breaks that it uses itself.
    quoting = csv.QUOTE_ALL if quote_all or end != "\r\n" else csv.QUOTE_MINIMAL
    buffer, lines, line = io.StringIO(newline=""), [], 1
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
    for row in rows:
        lines.append(line)
        writer.writerow(row)
        line += 1 + sum(plain(cell).count("\n") for cell in row)
    records = list(read_records(buffer.getvalue(), delimiter))
    assert [record.cells for record in records] == [tuple(plain(cell) for cell in row) for row in rows]
    assert [record.line for record in records] == lines
    assert not any(record.trouble for record in records)


@given(st.text(st.sampled_from('a",\n\r b'), max_size=40))
def test_any_text_is_read_to_its_end_with_rising_lines(text: str) -> None:
    lines = [record.line for record in read_records(text, ",")]
    assert lines == sorted(set(lines))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n\n1,2\n", [(1, ("a", "b"), None), (2, (), None), (3, ("1", "2"), None)]),
        ('a,b\n"1\n2",3\n4,5', [(1, ("a", "b"), None), (2, ("1\n2", "3"), None), (4, ("4", "5"), None)]),
        ('a,b\n1,5" pipe\n', [(1, ("a", "b"), None), (2, ("1", '5" pipe'), None)]),
        # Open to the end of the file: the rows after it are still read.
        ('a,b\n1,"2\n3,4\n', [(1, ("a", "b"), None), (2, ("1",), "open-quote"), (3, ("3", "4"), None)]),
        # What closes it is the next cell's opening quote.
        (
            'a,b\n1,"2\n3,"x\ny"\n5,6\n',
            [(1, ("a", "b"), None), (2, ("1",), "open-quote"), (3, ("3", "x\ny"), None), (5, ("5", "6"), None)],
        ),
        ('a,b\n1,"he" said\n3,4\n', [(1, ("a", "b"), None), (2, ("1",), "stray-quote"), (3, ("3", "4"), None)]),
        # The second line belongs to the broken cell.
        ('a,b\n1,"he\nsays "hi" x\n3,4\n', [(1, ("a", "b"), None), (2, ("1",), "open-quote"), (4, ("3", "4"), None)]),
    ],
)
def test_lines_and_broken_quotes(text: str, expected: list[tuple[int, tuple[str, ...], str | None]]) -> None:
    def show(record: Record) -> tuple[int, tuple[str, ...], str | None]:
        return record.line, record.cells, record.trouble

    assert [show(record) for record in read_records(text, ",")] == expected
