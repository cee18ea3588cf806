"""Addresses: of tracking stores (a SQLite file, a database, a server), and of the files of runs."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from rewindctl.errors import RegistryError
from rewindctl.system.safe_text import redacted, remember, user_info

DEFAULT_STORE = "mlflow.db"
ODD_SIGNS = re.compile(r"[/?#@\[\]\s]")  # in a user name or password: where the host begins is then anyone's guess
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(\+[A-Za-z0-9_.-]*)?:(//)?")  # the scheme, its driver
SQLITE_DRIVERS = ("", "+pysqlite")  # Python's own, by both its names: the one that can be guarded
DATABASES = ("postgresql", "mysql", "mssql")
# In a path SQLAlchemy takes them for options or codes, and opens another file than the one that is looked at.
ODD_PATH = re.compile(r"[?\x00-\x1f]|%[0-9A-Fa-f]{2}")
GIVE = "give --tracking-uri sqlite:///PATH, the http:// address of an MLflow server, or postgresql://HOST/NAME"


def absolute_uri(uri: str | None) -> str:
    """The URI given, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` here, in the one form that it has everywhere else.

    A SQLite store is `sqlite:///` and an absolute path, whatever SQLAlchemy would take besides. Raises: RegistryError
    for what is not an address of a store.
    """
    uri = (uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}").strip()
    found = NAMED.match(uri)
    scheme, driver = (found[1].lower(), (found[2] or "").lower()) if found else ("", "")
    if scheme == "sqlite":
        return f"sqlite:///{_file_of(uri, driver)}"
    if scheme == "file":
        raise RegistryError(f"{redacted(uri)} is a folder of files, MLflow's earlier kind of store", GIVE)
    if found is None or not found[3]:
        known = "" if uri.startswith("databricks") else f"sqlite:///{uri}/mlflow.db"
        hint = f"give {known}, or the http:// address of an MLflow server" if known else GIVE
        raise RegistryError(f"tracking URI {redacted(uri)!r} has no scheme", hint)
    remember(uri)
    if not (scheme in DATABASES or (is_server(uri) and not driver)):
        raise RegistryError(f"the tracking URI {redacted(uri)} names an unknown kind of store", GIVE)
    if odd := ODD_SIGNS.search(user_info(uri)):
        raise RegistryError(
            f"the user name or password in the tracking URI {redacted(uri)} has a character to be percent-encoded",
            f"write {quote(odd[0], safe='')} for {odd[0]!r}; "
            "or leave both out and set $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD",
        )
    return f"{scheme}{_driver(scheme, driver)}{uri[found.end(2) if found[2] else found.end(1) :]}"


def _file_of(uri: str, driver: str) -> Path:
    """The absolute path of a SQLite address in any spelling. Raises: RegistryError."""
    place = uri.partition("://")[2]
    if driver not in SQLITE_DRIVERS:
        why = f"{redacted(uri)} asks for another SQLite driver than Python's own"
    elif place in ("", "/", "/:memory:") or place.lower().startswith("/file::memory:"):
        why = f"{redacted(uri)} is a store in memory, gone when the command ends"
    elif not place.startswith("/") or place.lower().startswith("/file:"):
        why = f"{redacted(uri)} is not a path of a SQLite file"
    else:
        path = Path(place[1:]).expanduser().absolute()
        if (odd := ODD_PATH.search(str(path))) is None:
            return path
        why = f"the path of {redacted(uri)} has {odd[0]!r}, which starts an option or an escape code there"
    raise RegistryError(why, "give sqlite:///PATH, an absolute or relative path and nothing more")


def _driver(scheme: str, given: str) -> str:
    """SQLAlchemy 2.1 looks for psycopg alone where the address names no driver, 2.0 for psycopg2."""
    bare = scheme == "postgresql" and not given
    return "+psycopg2" if bare and find_spec("psycopg2") and not find_spec("psycopg") else given


def is_server(uri: str) -> bool:
    """Whether it is the address of a tracking server, and no database."""
    return uri.partition("://")[0].lower() in ("http", "https")


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, in any spelling, else None. Raises: RegistryError for a spelling of none."""
    found = NAMED.match(uri)
    return _file_of(uri, (found[2] or "").lower()) if found and found[1].lower() == "sqlite" else None


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


def local_path(artifact_uri: str) -> Path | None:
    """The folder of an artifact URI, None where it is not one of this machine."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None
