"""The model card: what a run has stored about itself on one Markdown page; what is not stored is said to be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.export.results import result_lines, study_of

if TYPE_CHECKING:
    from medssl.export.source import Source

__all__ = ["MISSING", "model_card"]

MISSING = "not stored by this run"
FILL_IN = "_to be filled in by whoever passes the file on_"

Facts = Mapping[str, Any]


def model_card(source: Source, metadata: Facts) -> str:
    """Markdown, from config.yaml, environment.json, summary.json and what lies beside the weights.

    Neither patients nor paths are named: of folders only the last part.

    Args:
        source: what was exported.
        metadata: of the file, see ``describe_export``; with its agreement.
    """
    stored = _Stored(source)
    parts = {
        "": [f"# Model card: {metadata['architecture']} of run {metadata['source']['run']}", *_lead(metadata)],
        "Intended use": _intended(metadata),
        "Data": _data(source, stored),
        "Method": _method(source, stored),
        "Results": result_lines(source, stored.summary, stored.study),
        "Limits": _limits(source, stored),
        "The exported file": _file(metadata),
        "Licence and contact": [
            f"- Licence of the weights: {FILL_IN}", f"- Terms of the training data: {FILL_IN}",
            f"- Who answers questions: {FILL_IN}",
        ],
        "Versions": _versions(stored, metadata),
        "Configuration": _configuration(stored),
    }  # fmt: skip
    return "\n\n".join((f"## {title}\n\n" if title else "") + "\n".join(lines) for title, lines in parts.items()) + "\n"


class _Stored:
    """The three files of a run, each empty where it is missing or not readable, and its study if it has one."""

    def __init__(self, source: Source) -> None:
        run = source.run
        self.summary = _json(run / "summary.json")
        self.environment = _json(run / "environment.json")
        self.config = _yaml(run / "config.yaml")
        self.study = study_of(run)

    @property
    def cohort(self) -> Facts:
        """Of the study, which alone stores what is in a cohort."""
        found: Facts = (self.study or {}).get("cohort", {})
        return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _lead(metadata: Facts) -> list[str]:
    what = "whole fine-tuned model" if metadata["part"] == "model" else "encoder (features, no decisions)"
    return [
        "", f"**Not a medical device, not for diagnosis.** Research software made this {what}; nobody has approved it "
        "for clinical use.", "", f"Weights: SHA-256 `{metadata['source']['weights_sha256']}`",
    ]  # fmt: skip


def _intended(metadata: Facts) -> list[str]:
    target, inputs = metadata["target"], metadata["input"]
    task = f"{target['task']} of “{target['name']}”" if target else "features for further training and for search"
    return [
        f"- Made for: research on {task}, from {inputs['kind']}s with the channels {', '.join(inputs['channels'])}.",
        "- Not for: diagnosis, triage, treatment, or any decision about a patient.",
        f"- Intended users and setting: {FILL_IN}",
    ]


def _data(source: Source, stored: _Stored) -> list[str]:
    summary, provenance, cohort = stored.summary, source.provenance, stored.cohort
    fingerprints = [str(f)[:16] for f in _fingerprints(stored, provenance)]
    splits = stored.environment.get("splits") or {}
    split_hash = summary.get("split_hash") or ", ".join(f"{n}: {h}" for n, h in splits.items() if h)
    facts = {
        "Cohort": ", ".join(fingerprints) and f"fingerprint {', '.join(fingerprints)}",
        "Recipe": cohort.get("recipe") or provenance.get("recipe"),
        "Modality": cohort.get("modality"),
        "Recordings": cohort.get("n_recordings") or summary.get("n_recordings"),
        "Patients": cohort.get("n_patients") or (summary.get("n_patients") if source.part == "encoder" else None),
        "Labelled patients (budget)": summary.get("n_patients") if "task" in summary else None,
        "of them for training": summary.get("n_train_patients"),
        "of them for choosing the step": summary.get("n_validation_patients"),
        "Labelled cases for training": summary.get("n_train_items"),
        "Test patients": summary.get("n_test_patients"),
        "Split": summary.get("split_rule"),
        "Split hash": split_hash,
        "Sites, scanners, age, sex": None,
    }
    if "task" not in summary:  # nothing that only labels have
        wanted = {"Cohort", "Recipe", "Modality", "Recordings", "Patients", "Split hash", "Sites, scanners, age, sex"}
        left_out = (summary.get("left_out") or {}).get("patients")
        facts = {**{k: v for k, v in facts.items() if k in wanted}, "Test patients left out of pre-training": left_out}
    return [*_facts(facts), *(f"- {step[0].upper()}{step[1:]}." for step in _steps(source))]


def _steps(source: Source) -> Sequence[str]:
    from medssl.export.about import preprocessing

    return [f"prepared: {'; '.join(preprocessing(source)[:-1])}"]


def _fingerprints(stored: _Stored, provenance: Facts) -> Sequence[str]:
    known = provenance.get("cohorts") or provenance.get("cohort")
    if known:
        return [known] if isinstance(known, str) else list(known)
    return [c["fingerprint"] for c in stored.environment.get("cohorts", []) if c.get("fingerprint")]


def _method(source: Source, stored: _Stored) -> list[str]:
    summary, provenance = stored.summary, source.provenance
    method = summary.get("method") or _class(provenance.get("method")) or _class(stored.config.get("method"))
    started = provenance.get("encoder") or summary.get("encoder") if "task" in summary else None
    facts: dict[str, object] = {"Encoder": type(source.encoder).__name__}
    if source.part == "model":
        facts["Head"] = type(source.network).__name__
    if "task" in summary or source.part == "model":
        scratch = started in ("none", "scratch")
        facts["Started from"] = "random weights" if scratch else started and f"pre-trained run {Path(started).name}"
    else:
        facts["Pre-training method"] = method
        facts["Objective"] = _class(((provenance.get("method") or {}).get("init_args") or {}).get("objective"))
    facts["Steps"] = summary.get("steps")
    facts["Step kept"] = summary.get("best_step") or provenance.get("step")
    facts["Seed"] = summary.get("seed", provenance.get("seed"))
    facts["Number of weights"] = f"{sum(p.numel() for p in source.network.parameters()):,}"
    if provenance.get("imported_from"):
        facts["Imported from"] = Path(str(provenance["imported_from"])).name
    return _facts(facts)


def _class(specification: object) -> str | None:
    if not isinstance(specification, Mapping) or "class_path" not in specification:
        return None
    return str(specification["class_path"]).rpartition(".")[2]


def _limits(source: Source, stored: _Stored) -> list[str]:
    summary = stored.summary
    lines = [
        "- Nothing is claimed about other hospitals, scanners, devices or populations than those of the data above.",
        "- Inputs prepared otherwise than stated give answers that mean nothing.",
        "- Weights can remember training data: treat them as the data they come from.",
    ]
    if source.part == "model" and summary.get("n_patients"):
        lines.insert(0, f"- It has seen the labels of {summary['n_patients']} patients.")
    said = [*(summary.get("notes") or ()), *(summary.get("alarms") or ()), *((stored.study or {}).get("caveats") or ())]
    lines += [f"- {_sentence(s)}" for s in said]
    return [*lines, f"- Known failures and groups it was not tried on: {FILL_IN}"]


def _sentence(value: object) -> str:
    text = str(value.get("message") or value.get("text") or value) if isinstance(value, Mapping) else str(value)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _file(metadata: Facts) -> list[str]:
    inputs, agreement = metadata["input"], metadata["agreement"]
    shape = ", ".join(f"{a} {'any' if n is None else n}" for a, n in zip(inputs["axes"], inputs["shape"], strict=True))
    lines = [f"- Format {metadata['format']}; input `x`, float32: {shape}; trained with {inputs['trained_size']}."]
    lines += [f"- Output `{o['name']}`: {o['meaning']}." for o in metadata["outputs"]]
    if metadata["target"] and metadata["target"]["classes"]:
        lines.append(f"- Classes in order: {', '.join(map(str, metadata['target']['classes']))}.")
    lines += [f"- Afterwards: {step}." for step in metadata["postprocessing"]]
    return [
        *lines,
        f"- Compared with torch on {len(agreement['inputs'])} random inputs: largest difference "
        f"{agreement['max_abs']:.2g}, {agreement['max_rel']:.2g} of the largest value.",
    ]


def _versions(stored: _Stored, metadata: Facts) -> list[str]:
    environment = stored.environment
    versions = ", ".join(f"{k} {v}" for k, v in (environment.get("versions") or {}).items())
    exported = ", ".join(f"{k} {v}" for k, v in metadata["versions"].items())
    git = environment.get("git", "")
    state = MISSING if git == "" else git or "trained outside a repository"
    device = environment.get("device")
    return _facts({"Trained with": versions, "Code state": state, "Device": device, "Exported with": exported})


def _configuration(stored: _Stored) -> list[str]:
    import yaml

    if not stored.config:
        return [f"{MISSING[0].upper()}{MISSING[1:]}."]
    shown = {k: _last_part(v) for k, v in stored.config.items()}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return ["Folders are shortened to their last part.", "", "```yaml", text.rstrip(), "```"]


def _last_part(value: Any) -> Any:
    """Paths may hold names of people and machines."""
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if isinstance(value, Mapping):
        return {k: _last_part(v) for k, v in value.items()}
    return [_last_part(v) for v in value] if isinstance(value, list) else value


def _facts(facts: Facts) -> list[str]:
    return [f"- {name}: {MISSING if value is None or value == '' else value}" for name, value in facts.items()]
