"""Writes docs/reference.md from the code: `python docs/make_reference.py` (`--check` only says whether it is stale).

Installed plug-ins and the terminal change nothing in it. What the code cannot say of itself is in `making/words.py`.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from making.commands import commands  # noqa: E402 (beside this file)
from making.names import catalogs  # noqa: E402
from making.python import api  # noqa: E402
from making.runs import environment, runs  # noqa: E402

from rewindctl import plugins  # noqa: E402

HEAD = """\
# Reference

Made from the code by `python docs/make_reference.py`: do not edit it. What the words mean: [concepts](concepts.md).
What to do with it: [how-to](how-to.md).
"""


def reference() -> str:
    """The whole page."""
    plugins.GROUP = "rewindctl.no-plugins"
    parts = [HEAD, *commands(), *catalogs(), *runs(), *environment(), *api()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    page = HERE / "reference.md"
    made = reference()
    if "--check" in sys.argv[1:]:
        if not page.is_file() or page.read_text() != made:
            sys.exit("docs/reference.md is stale: python docs/make_reference.py")
    else:
        page.write_text(made)
