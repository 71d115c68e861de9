"""Pseudonyms of patients, sessions and recordings: a keyed hash whose key never lies in the cohort.

Without the key a pseudonym can be neither undone nor guessed by trying names; with it, the same patient gets the same
pseudonym in every cohort prepared on this machine, so cohorts can be joined.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from medssl.adapters.recording import Ids
from medssl.errors import CohortError

__all__ = ["KEY_VARIABLE", "Pseudonyms", "default_key_file", "load_key"]

KEY_VARIABLE = "MEDSSL_PSEUDONYM_KEY"
_KEY_BYTES = 32


def default_key_file() -> Path:
    """``$MEDSSL_PSEUDONYM_KEY``, else ``pseudonym.key`` in the user's configuration folder for medssl."""
    given = os.environ.get(KEY_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "medssl" / "pseudonym.key"


def load_key(file: Path | None, cohort: Path, *, create: bool = True) -> bytes:
    """The secret key; made on first use, readable by its owner only.

    Args:
        file: where it lies; ``default_key_file()`` when None.
        cohort: the cohort's folder, in which the key must not lie.
        create: make a missing key; otherwise a key for this call alone is returned.

    Raises:
        CohortError: the file lies in the cohort, cannot be written, or is no key.
    """
    path = (file or default_key_file()).expanduser()
    if path.resolve().is_relative_to(cohort.resolve()):
        raise CohortError(
            f"the pseudonym key '{path}' lies inside the cohort, so whoever gets the cohort could undo the pseudonyms; "
            f"give a path outside it with --pseudonym-key or {KEY_VARIABLE}"
        )
    if not path.exists():
        if not create:
            return secrets.token_bytes(_KEY_BYTES)
        _create(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise CohortError(
            f"'{path}' cannot be read as a pseudonym key ({error}); give another --pseudonym-key"
        ) from error
    if len(key) < _KEY_BYTES:
        raise CohortError(f"'{path}' is no pseudonym key: it must hold at least {2 * _KEY_BYTES} hexadecimal digits")
    return key


def _create(path: Path) -> None:
    """Write a fresh key under a private name, then link it: two first runs at once agree on one key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        try:
            os.link(temporary, path)
        except FileExistsError:  # another run was first: its key counts
            temporary.unlink()
        else:
            temporary.unlink()
    except OSError as error:
        raise CohortError(
            f"the pseudonym key '{path}' cannot be written ({error}); give a path with --pseudonym-key"
        ) from error


@dataclass(frozen=True)
class Pseudonyms:
    """Original ids → stored ids.

    Attributes:
        key: the secret, or None to keep ids as they are (stripped).
    """

    key: bytes | None

    def ids(self, ids: Ids) -> Ids:
        """Pseudonyms of all that is set; a trial that is a plain number stays."""
        return Ids(
            patient=self.patient(ids.patient),
            session=self._name("S", ids.session, digits=10),
            recording=self._name("R", ids.recording, digits=14),
            trial=ids.trial if ids.trial.isdecimal() else self._name("T", ids.trial, digits=10),
        )

    def patient(self, name: str) -> str:
        """``"P"`` + 10 hexadecimal digits; upper and lower case and outer blanks make no difference.

        >>> Pseudonyms(b"k" * 32).patient("Doe^Jane ") == Pseudonyms(b"k" * 32).patient("DOE^JANE")
        True
        """
        return self._name("P", name, digits=10)

    def check(self) -> str:
        """A short value that tells two keys apart and reveals neither; empty when ids are kept."""
        return self._digest("check", "")[:8] if self.key is not None else ""

    def _name(self, letter: str, name: str, *, digits: int) -> str:
        plain = unicodedata.normalize("NFC", name).strip()
        if not plain or self.key is None:
            return plain
        return letter + self._digest(letter, plain.casefold())[:digits]

    def _digest(self, kind: str, text: str) -> str:
        assert self.key is not None
        return hmac.new(self.key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()
