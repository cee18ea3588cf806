"""Text of others is shown as text: no escapes, no links, no formulas, no passwords."""

import html
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewindctl.system.safe_text import (
    drawn,
    fitting,
    markdown,
    one_line,
    plain,
    plain_or_bold,
    redacted,
    remember,
    scrubbed,
)

HOSTILE = "=1+1 <script>x</script> [a](javascript:x) ![i](x.png) "
HOSTILE += "\x1b]0;t\x07\x1b[2J\x9b31m\u202e`$\\frac{$ | \\| &lt;"
PASSWORDS = ["s3cret", "s%40cr%2Fet", "pä%C3%9Fword", "a:b:c", "p'\"w", "x" * 200, "100%25"]
ADDRESSES = ["http://user:{}@host:5000/path", "https://user:{}@[::1]:5000", "postgresql://user:{}@host/runs"]
ADDRESSES += ["mysql+pymysql://user:{}@host:3306/db?charset=utf8", "postgresql://host/runs?user=me&password={}"]


@given(st.text())
def test_nothing_shown_steers_a_terminal(text: str) -> None:
    assert one_line(text).isprintable()
    assert all(line.replace("\t", "").isprintable() for line in plain(text).split("\n"))
    assert plain(text).count("\n") == text.count("\n")
    bold = plain_or_bold(f"\x1b[1m{text}\x1b[0m")
    assert set(re.findall(r"\x1b.{0,3}", bold)) <= {"\x1b[1m", "\x1b[0m", *re.findall(r"\x1b\[[01]m", bold)}
    fitting(text, "ascii").encode("ascii")


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert one_line(text) == plain(text) == plain_or_bold(text) == text


@given(st.text(st.sampled_from("ab [](){}!`\\|<>&;#*_x1")))
def test_markdown_shows_the_text_and_has_no_link_image_tag_or_code(text: str) -> None:
    escaped = markdown(text)
    assert not re.search(r"(?<!\\)(\\\\)*[\[\]`|]", escaped)
    assert "<" not in escaped
    shown = html.unescape(re.sub(r"\\([\\`\[\]|])", r"\1", escaped))
    assert shown == text or "&" in text


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_password_of_an_address_is_shown(address: str, password: str) -> None:
    uri = address.format(password)
    assert password not in redacted(uri)
    assert redacted(uri).startswith(uri.partition("://")[0])
    remember(uri)
    for said in (uri, f"API request to {uri} failed", f"could not connect: '{password}' for user", f"{uri}/a?b=c"):
        assert password not in scrubbed(said)


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=4, max_size=30))
def test_no_password_is_shown_whatever_its_signs(password: str) -> None:
    assume(not re.match("[0-9]+[/?#]", password))  # `user:5000/...` is a host and its port, as in the next test
    uri = f"postgresql://user:{password}@db.example/runs"
    assert password not in redacted(uri).replace("db.example/runs", "").replace("postgresql://", "")


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////srv/a@b/mlflow.db", "http://host:5000", "http://host:5000/a@b", "http://[::1]:5000", "x"],
)
def test_an_address_without_a_password_stays_as_it_is(uri: str) -> None:
    assert redacted(uri) == uri


def test_a_name_in_a_figure_is_no_formula() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle(drawn(HOSTILE + "\n$x$ $\\undefined{"))
    figure.add_subplot().plot([1], [1], label=drawn("$\\frac{$"))
    figure.axes[0].legend()
    figure.canvas.draw()
