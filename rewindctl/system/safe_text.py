"""Text that may be shown and kept: without passwords, without characters that steer a terminal or run elsewhere."""

import math
import re
from urllib.parse import quote, unquote

SHORTEST_SECRET = 4  # what is shorter is taken out of addresses only: it may be part of any word
BOLD = re.compile(r"(\x1b\[[01]m)")  # the only escapes that we write ourselves
SECRET_OPTION = re.compile(r"(?i)([?&;][\w.-]*(?:pass|pwd|secret|token|key)[\w.-]*=)([^&#;\s]*)")
IN_ADDRESS = re.compile(r"(://)[^\s/@'\"]*:[^\s@]*@")

_secrets: set[str] = set()  # of the addresses that this process was given


def one_line(text: str) -> str:
    """One line without control characters: names and tags may have been written by anyone."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def markdown(text: str) -> str:
    """Text that stays text in a line of Markdown or a cell of its tables: no links, images, tags, code."""
    escaped = re.sub(r"([\\`\[\]|])", r"\\\1", one_line(text))
    return re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;")


def drawn(text: str) -> str:
    """Text for a figure, its lines kept: matplotlib takes what stands between two dollars for a formula."""
    return "\n".join(map(one_line, text.split("\n"))).replace("$", r"\$")


def plain(text: str) -> str:
    """Lines without control characters, but for tabs; nothing turns the direction of the writing."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def plain_or_bold(text: str) -> str:
    """As `plain`; what is bold stays so."""
    parts = BOLD.split(text)
    return "".join(part if index % 2 else plain(part) for index, part in enumerate(parts))


def fitting(text: str, encoding: str | None) -> str:
    """The text with what an encoding cannot say as \\x, \\u or \\U and its number."""
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def finite(value: float) -> float | None:
    """A number as JSON and metrics have it: None for NaN and infinity, as the loss of a network pruned to nonsense."""
    return value if math.isfinite(value) else None


def user_info(uri: str) -> str:
    """`user:password` of an address, also where it has signs that do not belong there; empty where there is none."""
    rest = uri.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition(":")[2]
    odd = ":" in authority and not port.isdecimal()  # what follows the colon is no port: a password with / ? or #
    return rest.rpartition("@")[0] if "@" in authority or (odd and "@" in rest) else ""


def redacted(uri: str) -> str:
    """The address without user name and password, fit for messages, tags and artifacts."""
    found = user_info(uri)
    if found:
        scheme, _, rest = uri.partition("://")
        uri = f"{scheme}://***{rest[len(found) :]}"
    return SECRET_OPTION.sub(r"\1***", uri)


def remember(uri: str) -> None:
    """Keep the secrets of an address out of every text that `scrubbed` sees from now on."""
    found = user_info(uri)
    password = found.partition(":")[2]
    for text in (found, password, *(match[2] for match in SECRET_OPTION.finditer(uri))):
        _secrets.update(form for form in (text, unquote(text), quote(text, safe="")) if len(form) >= SHORTEST_SECRET)


def scrubbed(text: str) -> str:
    """Text of others (a server's answer, a traceback) without the passwords of addresses."""
    text = SECRET_OPTION.sub(r"\1***", IN_ADDRESS.sub(r"\1***@", text))
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
