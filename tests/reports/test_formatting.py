"""Names in Markdown and LaTeX are text, whatever they are."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ffds.reports.formatting import markdown_table, provenance

NAMES = ["<script>alert(1)</script>", "a|b", "a\nb", "| --- |\n", "\x1b[2J", "<!--", "`", "\u202e", "---"]
names = st.sampled_from(NAMES) | st.text(max_size=8)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=4))
def test_a_table_has_its_rows_and_columns_whatever_the_names(lines):
    text = markdown_table(lines)
    rows = text.split("\n")
    assert len(rows) == len(lines) + 1
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
        assert row.isprintable()
        assert "<" not in row


@given(names, names, names, names)
def test_where_runs_were_measured_is_one_line_each(hardware, versions, commit, command):
    (line,) = provenance([(hardware, versions, commit, f"ffds {command}")])
    assert line.isprintable()
    assert line.count("`") == 2 + sum(name.count("`") for name in (hardware, versions, commit))
