"""``medssl prepare``: raw files → cohort; parallel, resumable, and nothing dropped silently."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.adapters.recording import Rejected
from medssl.cohort.dryrun import show, try_out
from medssl.cohort.finish import Entry, Found, finish
from medssl.cohort.info import CohortInfo
from medssl.cohort.journal import Journal, claim
from medssl.cohort.packing import Packer
from medssl.cohort.plan import Plan, Task, inputs, make_plan
from medssl.cohort.pool import Done, NotSentError, WorkerDiedError, default_workers, fan_out, memory_limit_bytes
from medssl.cohort.pseudonyms import Pseudonyms, load_key
from medssl.cohort.store import Profile
from medssl.cohort.worker import WORK, Outcome, prepare_item, staged_file
from medssl.errors import CohortError, MedSSLError
from medssl.progress import track

__all__ = ["prepare"]

_Run = Callable[..., Iterator[Done]]


def prepare(
    recipe: str | Path,
    source: str | Path,
    cohort: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    preparation: Mapping[str, Any] | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    scheduler: str | None = None,
    memory_gb: float | None = None,
    keep_ids: bool = False,
    pseudonym_key: Path | None = None,
    max_rejected: float = 0.5,
    profile: Profile = "fast",
    overwrite: bool = False,
) -> CohortInfo:
    """Raw clinical files → one clean, checked cohort on disk.

    A call that was killed continues where it was when repeated; a call on a finished cohort takes the files that came
    since. The result does not depend on the number of workers or on the order of work.

    Args:
        recipe: name in ``data_prep/``, or path of your own recipe file.
        source: folder (or table) that the recipe reads.
        cohort: folder to write; new, empty, or a cohort prepared with the same settings.
        options: of the recipe.
        preparation: settings that replace the recipe's own, e.g. ``{"spacing_mm": [1, 1, 1]}``.
        workers: processes; all cores by default, 0 runs in this process.
        dry_run: read everything, print a verdict per file and the manifest it would write, write nothing.
        scheduler: ``local`` (Dask with ``workers`` processes) or the address of a Dask scheduler (``tcp://host:8786``).
        memory_gb: tasks under way together stay below this estimate; 60 % of the machine's memory by default.
        keep_ids: store patient, session and recording ids as they are, in place of pseudonyms.
        pseudonym_key: secret key file; by default ``~/.config/medssl/pseudonym.key``, made on first use.
        max_rejected: highest share of rejected inputs that is still a success.
        profile: ``fast`` (LZ4) or ``archive`` (Zstandard: smaller, slower to write).
        overwrite: replace a cohort that was prepared with other settings.

    Returns:
        What ``cohort.json`` says.

    Raises:
        RecipeError, ConfigError: the recipe, its options or the settings do not fit.
        CohortError: the folder cannot be used, no input could be taken, or too many were rejected (what could be taken
            stands in the cohort all the same).
    """
    folder = Path(cohort)
    key = None if keep_ids else load_key(pseudonym_key, folder, create=not dry_run)
    plan = make_plan(
        *(recipe, Path(source), folder),
        options=options,
        overrides=preparation,
        pseudonyms=Pseudonyms(key),
        profile=profile,
    )
    run = functools.partial(
        fan_out,
        workers=default_workers() if workers is None else workers,
        scheduler=scheduler,
        memory_bytes=memory_limit_bytes() if memory_gb is None else int(memory_gb * 2**30),
    )
    if dry_run:
        result = try_out(plan, run)
        show(result)
        return result.info
    info, rejected = _write(plan, run, overwrite=overwrite)
    _judge(plan, info, rejected, max_rejected)
    return info


def _write(plan: Plan, run: _Run, *, overwrite: bool) -> tuple[CohortInfo, list[Rejected]]:
    with claim(plan.cohort, plan.settings(), overwrite=overwrite):
        journal = Journal(plan.cohort / WORK / "journal.jsonl")
        try:
            entries = _work(plan, journal, run)
            return finish(
                *(plan.cohort, entries, journal),
                recipe=plan.recipe,
                name=plan.name,
                preparation=plan.preparation,
                profile=plan.profile,
            )
        except OSError as error:
            raise _unwritable(plan.cohort, error) from error
        finally:
            journal.close()


def _work(plan: Plan, journal: Journal, run: _Run) -> list[Entry]:
    """Prepare what the journal does not have yet. Returns all inputs in the order of the recipe."""
    packer = Packer(plan.cohort, plan.profile)
    entries: list[Entry] = []
    tasks: list[Task] = []
    for found in inputs(plan):
        entries.append(found if isinstance(found, Rejected) else Found(found.key, found.item.source))
        if isinstance(found, Task) and not (journal.is_done(found.key) and _stands(plan, packer, journal, found.key)):
            tasks.append(found)
    job, n_rejected = plan.job(), 0
    with track(len(tasks), "preparing", unit="inputs") as progress:
        results = run(prepare_item, tasks, arguments=lambda t: (job, t.item, t.name), cost=lambda t: t.memory_bytes)
        for done in results:
            outcome = _outcome(plan, done)
            journal.append(done.task.key, outcome)
            n_rejected += len(outcome["rejected"])
            progress.advance(note=f"{n_rejected} rejected")
    return entries


def _stands(plan: Plan, packer: Packer, journal: Journal, key: str) -> bool:
    """Whether the arrays that the journal tells of are (still) there."""
    for row in journal.outcome(key)["rows"]:
        if "staged" in row:
            there = staged_file(plan.cohort, row["staged"]).is_file() or packer.before(row["recording"]) is not None
        else:
            there = (plan.cohort / "arrays" / row["array"] / "zarr.json").is_file()
        if not there:
            return False
    return True


def _outcome(plan: Plan, done: Done) -> Outcome:
    if done.error is None:
        outcome: Outcome = done.result
        return outcome
    if isinstance(done.error, WorkerDiedError | NotSentError):
        return {"rows": [], "rejected": [[done.task.item.source, str(done.error)]], "crashed": True}
    if isinstance(done.error, MedSSLError):
        raise done.error
    raise _unwritable(plan.cohort, done.error) from done.error


def _unwritable(cohort: Path, error: BaseException) -> CohortError:
    first = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return CohortError(f"'{cohort}' cannot be written ({first}); mend that and repeat the call, which will continue")


def _judge(plan: Plan, info: CohortInfo, rejected: Sequence[Rejected], max_rejected: float) -> None:
    total = info.n_recordings + len(rejected)
    first = "; ".join(f"{Path(source).name}: {reason}" for source, reason in rejected[:3])
    if not info.n_recordings:
        why = f"all {len(rejected)} inputs were rejected ({first})" if rejected else "the recipe found nothing to read"
        raise CohortError(f"no cohort was made from '{plan.source}': {why}; see '{plan.cohort / 'rejected.csv'}'")
    if len(rejected) > max_rejected * total:
        raise CohortError(
            f"{len(rejected)} of {total} inputs of '{plan.source}' were rejected ({first}); the cohort holds the other "
            f"{info.n_recordings}: read '{plan.cohort / 'rejected.csv'}', then mend the inputs or raise --max-rejected"
        )
