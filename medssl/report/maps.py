"""Maps of the features of every arm: recordings that its encoder finds alike lie together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, figure, section, tag
from medssl.report.plots import MapPoint, map_chart
from medssl.report.study_data import Study

__all__ = ["map_section"]

NAMED = 6  # colours that can be told apart; the rest is grey
GOLDEN_ANGLE = 137.508  # neighbouring numbers get hues far apart


def map_section(study: Study) -> Html:
    """One map an arm, coloured by label, site or patient; empty where none were made."""
    maps = {arm: study.pictures[f"map/{arm}"] for arm in study.arms if f"map/{arm}" in study.pictures}
    if not maps:
        return Html("")
    ways = {"label": [str(v) for v in study.pictures["map_label"]]}
    sites = [str(v) for v in study.pictures["map_site"]]
    if len(set(sites)) > 1:
        ways["site"] = sites
    places = {way: _places(values) for way, values in ways.items()}
    options = [tag("option", way, value=way) for way in (*ways, "patient")]
    controls = tag(
        "div", tag("label", "Colour by ", tag("select", *options, data_choose="maps")), class_="controls", hidden=""
    )
    legends = [_legend(way, names) for way, names in places.items()]
    legends.append(
        tag("p", "Every patient has a colour of its own; point at one to see all its recordings light up.",
            class_="muted", data_group="maps", data_value="patient")
    )  # fmt: skip
    charts = [_map(study, arm, flat, ways, places) for arm, flat in maps.items()]
    grid = tag("div", *charts, class_="grid", data_colours="maps", data_by="label")
    return section("Map of features", _explanation(study), controls, *legends, grid, id_="map-of-features")


def _explanation(study: Study) -> Html:
    tested = study.pictures["map_tested"]
    what = {"classification": "its class (the rarest one, where it has several)", "segmentation": "the volume of its "
            "mask in ml", "regression": f"its {study.summary['target']}"}[study.summary["task"]]  # fmt: skip
    return tag(
        "p", f"Each dot is a recording, as the encoder sees it before any fine-tuning ({int((~tested).sum())} of "
        f"development patients, filled; {int(tested.sum())} of test patients, rings). Near dots are alike to the "
        "encoder; distances between groups and their sizes mean nothing. The label of a recording is "
        f"{what}; no label was used to make the map. Groups by site or patient that ignore the label are a warning.",
    )  # fmt: skip


def _places(values: Sequence[str]) -> dict[str, int]:
    """Name → number of its colour; 0 (grey) for all but the most frequent."""
    ordered = [name for name, _ in Counter(sorted(values)).most_common()]
    if all(v.split()[0] in ("up", "above") or " to " in v for v in ordered):  # thirds of a range, in their order
        ordered.sort(key=lambda v: (v.startswith("above"), " to " in v))
    return {name: i + 1 if i < NAMED else 0 for i, name in enumerate(ordered)}


def _legend(way: str, places: dict[str, int]) -> Html:
    items = [_entry(name, place) for name, place in places.items() if place]
    rest = sum(place == 0 for place in places.values())
    if rest:
        items.append(_entry(f"{rest} others", 0))
    return tag("ul", *items, class_="legend", data_group="maps", data_value=way)


def _entry(name: str, place: int) -> Html:
    dot = f'<svg viewBox="0 0 14 14" aria-hidden="true"><circle cx="7" cy="7" r="5" fill="var(--s{place})"/></svg>'
    return tag("li", Html(dot), name)


def _map(
    study: Study, arm: str, flat: NDArray[Any], ways: dict[str, list[str]], places: dict[str, dict[str, int]]
) -> Html:
    kept = study.pictures
    patients = [str(p) for p in kept["map_patient"]]
    number = {p: i for i, p in enumerate(dict.fromkeys(patients))}
    points = []
    for i in np.flatnonzero(np.isfinite(flat).all(axis=1)):
        tested = bool(kept["map_tested"][i])
        site = f", site {ways['site'][i]}" if "site" in ways else ""
        said = (
            f"{ways['label'][i]}{site}; patient {patients[i][:8]}, recording {str(kept['map_recording'][i])[:8]}, "
            f"{'test' if tested else 'development'}"
        )
        classes = " ".join(f"{way[0]}{places[way][values[i]]}" for way, values in ways.items())
        hue = round(number[patients[i]] * GOLDEN_ANGLE) % 360
        points.append(MapPoint(float(flat[i, 0]), float(flat[i, 1]), said, patients[i], classes, hue, tested))
    if not points:
        return Html("")
    kind = str(kept[f"map_kind/{arm}"])
    names = Counter(ways["label"]).most_common(NAMED)
    spoken = f"{len(points)} recordings; " + ", ".join(f"{n} {name}" for name, n in names)
    return figure(map_chart(points, title=f"Map of the features of {arm}", spoken=spoken), f"{arm} · {kind}")
