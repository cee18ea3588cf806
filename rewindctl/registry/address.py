"""Addresses of tracking stores: a SQLite file, a database, a server."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from rewindctl.errors import RegistryError
from rewindctl.safe_text import redacted, remember, user_info

DEFAULT_STORE = "mlflow.db"
ODD_SIGNS = re.compile(r"[/?#@\[\]\s]")  # in a user name or password: where the host begins is then anyone's guess


def absolute_uri(uri: str | None) -> str:
    """The URI given, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` here; SQLite paths absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().absolute()}"
    if "://" not in uri:
        raise RegistryError(
            f"tracking URI {uri!r} has no scheme",
            f"give sqlite:///{uri}/mlflow.db, or the http:// address of an MLflow server",
        )
    remember(uri)
    if odd := ODD_SIGNS.search(user_info(uri)):
        raise RegistryError(
            f"the user name or password in the tracking URI {redacted(uri)} has a sign that must be written as a code",
            f"write {quote(odd[0], safe='')} for {odd[0]!r}; "
            "or leave both out and set $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD",
        )
    if uri.startswith("postgresql://"):
        return f"postgresql{_driver()}{uri.removeprefix('postgresql')}"
    return uri


def _driver() -> str:
    """SQLAlchemy 2.1 looks for psycopg alone where the address names no driver, 2.0 for psycopg2."""
    return "+psycopg2" if find_spec("psycopg2") and not find_spec("psycopg") else ""


def is_server(uri: str) -> bool:
    """Whether it is the address of a tracking server, and no database."""
    return uri.partition("://")[0].lower() in ("http", "https")


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, else None."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def is_there(uri: str) -> bool:
    """Whether there may be a store: False for a SQLite file that is not there."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def require_store(uri: str) -> None:
    """Raises: RegistryError for a SQLite file that is not there."""
    if not is_there(uri):
        raise RegistryError(
            f"there is no store {redacted(uri)}", "the first run makes it; for one elsewhere give --tracking-uri"
        )


def without_user(uri: str) -> str:
    """The address without user name and password."""
    found = user_info(uri)
    return uri.replace(f"{found}@", "", 1) if found else uri
