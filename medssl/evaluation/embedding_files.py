"""Files of embeddings: one row a recording, in Parquet, readable by any tool; see ``docs/formats.md``.

The description of how the rows came about lies in the file's own metadata, as JSON under the key ``medssl``, so a file
that was copied or renamed still says which encoder made it, from which cohort and how.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError, ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from medssl.cohort import Cohort

__all__ = ["FORMAT_VERSION", "Embeddings", "EmbeddingsWriter", "differences", "read_about", "read_embeddings"]

FORMAT_VERSION = 1
KEY = b"medssl"
IDS = ("recording", "patient", "session", "trial")
_INCIDENTAL = ("software", "name")  # what two files of one encoder may differ in


@dataclass(frozen=True)
class Embeddings:
    """The rows of a file.

    Attributes:
        about: how they came about.
        recordings: (n,) ids, in the order of the manifest.
        features: (n, D) float32, as the encoder gave them.
    """

    about: Mapping[str, Any]
    recordings: NDArray[Any]
    features: NDArray[np.float32]

    def check(self, cohort: Cohort, file: Path) -> None:
        """Refuse a file that was made from another cohort.

        Raises:
            CohortError: other fingerprint or recordings.
        """
        made_from = self.about["cohort"]
        if made_from["fingerprint"] != cohort.info.fingerprint:
            raise CohortError(
                f"'{file}' was made from another cohort ('{made_from['name']}', fingerprint "
                f"{made_from['fingerprint'][:12]}) than '{cohort.path}' ({cohort.info.fingerprint[:12]}); make one of "
                "this cohort with `medssl embed`"
            )
        if not np.array_equal(self.recordings, cohort.manifest["recording"].to_numpy(dtype=object)):
            raise CohortError(
                f"'{file}' does not hold the recordings of '{cohort.path}' in their order; make it again with "
                "`medssl embed`"
            )


class EmbeddingsWriter:
    """Writes a file beside its place, batch by batch; ``written`` puts it there once all rows are in.

    Args:
        cohort: whose ids and labels stand beside the embeddings.
        about: the description.
        dimension: D.
    """

    def __init__(self, cohort: Cohort, about: Mapping[str, Any], dimension: int) -> None:
        import pyarrow as pa

        self.cohort, self.dimension = cohort, dimension
        kept = [n for n in cohort.table.column_names if n in IDS or n.startswith("label_")]
        self._table = cohort.table.select(kept)
        text = pa.dictionary(pa.int32(), pa.string())
        fields = [*self._table.schema, pa.field("cohort", text), pa.field("kind", text)]
        fields.append(pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False))
        self._schema = pa.schema(fields, metadata={KEY: json.dumps(about, sort_keys=True).encode()})

    def rows(self, first: int, features: NDArray[np.float32]) -> pa.Table:
        """The rows from manifest row ``first`` on, with their features (n, D)."""
        import pyarrow as pa

        n, info = len(features), self.cohort.info
        flat = pa.array(np.ascontiguousarray(features, dtype=np.float32).ravel())
        same = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), pa.array([value]))
            for value in (info.fingerprint, info.kind)
        ]
        columns = [*self._table.slice(first, n).columns, *same]
        return pa.table(
            [*columns, pa.FixedSizeListArray.from_arrays(flat, self.dimension)], schema=self._schema
        )  # fmt: skip

    @contextlib.contextmanager
    def written(self, file: Path) -> Iterator[Any]:
        """A Parquet writer; the file takes its place when the block ends without an error.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        import pyarrow.parquet as pq

        temporary = file.with_name(f".{file.name}.writing")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(temporary, self._schema, compression="zstd") as writer:
                yield writer
            temporary.replace(file)
        except OSError as error:
            raise ConfigError(f"'{file}' cannot be written ({error.strerror or error}); give another place") from error
        finally:
            temporary.unlink(missing_ok=True)


def read_about(file: Path) -> dict[str, Any]:
    """What a file says of itself, without its rows.

    Raises:
        ConfigError: missing, damaged, of a newer format, or not written by `medssl embed`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise ConfigError(f"'{file}' does not exist; make it with `medssl embed ENCODER COHORT {file.name}`")
    try:
        found = (pq.read_schema(file).metadata or {}).get(KEY)
        about: dict[str, Any] = json.loads(found) if found is not None else {}
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ConfigError(f"'{file}' is damaged or no Parquet file; make it again with `medssl embed`") from error
    if about.get("format") != "embeddings":
        raise ConfigError(f"'{file}' was not written by `medssl embed`; give such a file, or a run")
    if about["format_version"] > FORMAT_VERSION:
        raise ConfigError(f"'{file}' was written by a newer medssl; update medssl to read it")
    return about


def read_embeddings(file: Path) -> Embeddings:
    """All rows of a file.

    Raises:
        ConfigError: see ``read_about``.
    """
    import pyarrow.parquet as pq

    about = read_about(file)
    table = pq.read_table(file, columns=["recording", "embedding"]).combine_chunks()
    column = table.column("embedding").combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    features = column.flatten().to_numpy().reshape(len(table), about["dimension"])
    return Embeddings(about, table.column("recording").to_numpy(), features)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], inside: str = "") -> list[str]:
    """Names of what two descriptions differ in, apart from names and versions of software.

    >>> differences({"size": [8], "encoder": {"sha256": "a", "name": "x"}}, {"size": [8], "encoder": {"sha256": "b"}})
    ['encoder.sha256']
    """
    found: list[str] = []
    for key in sorted({*one, *other} - set(_INCIDENTAL)):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{inside}{key}.")
        elif a != b:
            found.append(inside + key)
    return found
