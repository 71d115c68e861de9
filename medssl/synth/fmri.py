"""Synthetic resting-state fMRI: regions in networks whose coupling switches between states, people who differ by group,
sites that measure differently, and heads that move. What is true (states, coupling, motion) is known.

Every network has a slow fluctuation. In each state the fluctuations of the networks have correlations of their own, and
the state changes as a Markov chain (Allen et al., Cereb Cortex 24:663, 2014). Neural activity becomes a BOLD signal by
convolution with the double-gamma response (Glover, NeuroImage 9:416, 1999). It is no model of any disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError

__all__ = [
    "FMRI_SITES",
    "FmriPerson",
    "FmriSite",
    "FmriWorld",
    "SyntheticFmri",
    "draw_fmri_person",
    "make_fmri_world",
    "simulate_fmri",
]

Group = Literal["autism", "control"]

_DWELL_S = 40.0
_FINE_S = 0.1
_SHARE_OF_NETWORK = 0.8  # of the variance of a region; the rest is its own
_AFFECTED = (0, 1)


@dataclass(frozen=True)
class FmriSite:
    """How one site measures.

    Attributes:
        name: as a table has it. prefix: as names of files have it.
        tr_s, volumes: of its protocol.
        noise: standard deviation of the scanner's noise, of which neural signal has 1.
        shared: standard deviation of a slow signal that all regions of this site's runs share.
    """

    name: str
    prefix: str
    tr_s: float
    volumes: int
    noise: float
    shared: float


FMRI_SITES = (
    FmriSite("NYU", "NYU", 2.0, 176, 0.4, 0.1),
    FmriSite("UCLA_1", "UCLA_1", 3.0, 116, 0.8, 0.7),
    FmriSite("TRINITY", "Trinity", 2.0, 146, 0.6, 0.4),
)
"""Three sites with the names, repetition times and lengths of ABIDE's."""


@dataclass(frozen=True)
class FmriWorld:
    """What all people share.

    Attributes:
        network: (N,) network of each region.
        coupling: (K, M, M) correlation of the networks' fluctuations in each state.
        effect: by how much the coupling of the first two networks is lower in the group ``"autism"``.
    """

    network: NDArray[np.int64]
    coupling: NDArray[np.float64]
    effect: float

    def coupling_of(self, group: Group) -> NDArray[np.float64]:
        """(K, M, M) correlations of the networks in that group."""
        if group == "control":
            return self.coupling
        changed = self.coupling.copy()
        first, second = _AFFECTED
        changed[:, first, second] -= self.effect
        changed[:, second, first] -= self.effect
        return np.stack([_nearest_correlation(c) for c in changed])

    def correlation(self, group: Group, state: int) -> NDArray[np.float64]:
        """(N, N) correlation of the regions' neural signals in one state, without noise, site and motion."""
        between = self.coupling_of(group)[state][np.ix_(self.network, self.network)] * _SHARE_OF_NETWORK
        np.fill_diagonal(between, 1.0)
        return np.asarray(between)


@dataclass(frozen=True)
class FmriPerson:
    """One person.

    Attributes:
        group: ``"autism"`` or ``"control"``.
        age: years. sex: ``"M"`` or ``"F"``.
        own: (M, M) symmetric; what the coupling of this person's networks has of its own.
        restlessness: 0.3 to 3; how much the head moves.
    """

    group: Group
    age: float
    sex: Literal["M", "F"]
    own: NDArray[np.float64]
    restlessness: float


@dataclass(frozen=True)
class SyntheticFmri:
    """One run.

    Attributes:
        data: (N, T) float32; mean 0, deviations of about 1 where the head lies still.
        tr_s: seconds between two volumes.
        states: (T,) the state in which each volume was taken.
        motion: (T, 6) translations in mm, rotations in radians, as a registration would find them.
    """

    data: NDArray[np.float32]
    tr_s: float
    states: NDArray[np.int64]
    motion: NDArray[np.float64]


def make_fmri_world(
    *, regions: int = 40, networks: int = 5, states: int = 3, effect: float = 0.5, seed: int = 0
) -> FmriWorld:
    """Networks and their coupling in each state.

    Args:
        regions: at least two a network.
        networks: at least two.
        states: how many couplings a brain switches between.
        effect: difference between the groups, in correlation of the first two networks; 0 for none.
        seed: the same seed gives the same world.

    Raises:
        ConfigError: too few regions, networks or states.
    """
    if networks < 2 or regions < 2 * networks or states < 1:
        raise ConfigError(
            f"{regions} regions, {networks} networks, {states} states: at least 2 networks of 2 regions, and 1 state"
        )
    rng = np.random.default_rng([seed, 8])
    raw = rng.uniform(-0.6, 0.6, (states, networks, networks))
    coupling = (raw + raw.transpose(0, 2, 1)) / 2
    first, second = _AFFECTED
    coupling[:, first, second] = coupling[:, second, first] = 0.5
    network = np.sort(np.arange(regions) % networks)
    return FmriWorld(network, np.stack([_nearest_correlation(c) for c in coupling]), effect)


def draw_fmri_person(rng: np.random.Generator, world: FmriWorld, *, group: Group) -> FmriPerson:
    """A person of that group; restless ones are young, in either group."""
    networks = world.coupling.shape[1]
    own = rng.normal(0, 0.08, (networks, networks))
    age = float(rng.uniform(7, 40))
    return FmriPerson(
        group=group,
        age=age,
        sex="M" if rng.random() < 0.8 else "F",
        own=(own + own.T) / 2,
        restlessness=float(np.clip(rng.lognormal(0.35 - age / 50, 0.5), 0.3, 3.0)),
    )


def simulate_fmri(
    rng: np.random.Generator, world: FmriWorld, person: FmriPerson, *, site: FmriSite = FMRI_SITES[0]
) -> SyntheticFmri:
    """One run of a person at a site: neural signal, BOLD response, scanner noise, what the site adds, motion."""
    fine = round(site.tr_s / _FINE_S)
    steps = (site.volumes + round(30 / site.tr_s)) * fine  # half a minute before the first volume, for the response
    states = _state_sequence(rng, steps, len(world.coupling))
    coupling = world.coupling_of(person.group) + person.own
    roots = np.stack([np.linalg.cholesky(_nearest_correlation(c) + 1e-9 * np.eye(len(c))) for c in coupling])
    white = rng.standard_normal((steps, coupling.shape[1]))
    fluctuation = np.einsum("tij,tj->ti", roots[states], white)
    neural = np.sqrt(_SHARE_OF_NETWORK) * fluctuation[:, world.network]
    neural += np.sqrt(1 - _SHARE_OF_NETWORK) * rng.standard_normal(neural.shape)
    bold = _response(neural)[-site.volumes * fine :: fine]
    bold /= bold.std()
    shared = _response(rng.standard_normal((steps, 1)))[-site.volumes * fine :: fine]
    bold += site.shared * shared / shared.std()
    bold += site.noise * rng.standard_normal(bold.shape)
    motion = _motion(rng, person.restlessness, site.volumes)
    bold += _of_motion(rng, motion, bold.shape[1])
    # the response is at its height some five seconds after what it responds to
    delay = round(5 / _FINE_S)
    seen = states[np.arange(steps - site.volumes * fine, steps, fine) - delay]
    return SyntheticFmri(bold.T.astype(np.float32), site.tr_s, seen, motion)


def _nearest_correlation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric → positive definite with ones on the diagonal, by lifting its eigenvalues."""
    symmetric = np.clip((matrix + matrix.T) / 2, -0.95, 0.95)
    np.fill_diagonal(symmetric, 1.0)
    values, vectors = np.linalg.eigh(symmetric)
    lifted = (vectors * np.maximum(values, 0.02)) @ vectors.T
    scale = np.sqrt(np.diag(lifted))
    return np.asarray(lifted / np.outer(scale, scale))


def _state_sequence(rng: np.random.Generator, steps: int, states: int) -> NDArray[np.int64]:
    """(T,) a Markov chain that stays 40 s in a state on average, and then takes any other."""
    jumps = (rng.random(steps) < _FINE_S / _DWELL_S) & (states > 1)
    moves = np.where(jumps, rng.integers(1, max(states, 2), steps), 0)
    return np.asarray((rng.integers(states) + np.cumsum(moves)) % states, dtype=np.int64)


def _response(neural: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, N) convolved in time with the double-gamma response."""
    from scipy.signal import fftconvolve
    from scipy.stats import gamma

    time = np.arange(0, 30, _FINE_S)
    kernel = gamma.pdf(time, 6) - gamma.pdf(time, 16) / 6
    return np.asarray(fftconvolve(neural, kernel[:, None], axes=0)[: len(neural)])


def _motion(rng: np.random.Generator, restlessness: float, volumes: int) -> NDArray[np.float64]:
    """(T, 6) mm and radians: drift, breathing, and jerks after which the head lies elsewhere."""
    scale = np.array([0.02, 0.02, 0.03, 0.0004, 0.0002, 0.0002]) * restlessness
    steps = rng.normal(0, 0.25, (volumes, 6)) * scale
    jerks = rng.random(volumes) < 0.012 * restlessness
    steps[jerks] += rng.normal(0, 12, (int(jerks.sum()), 6)) * scale
    breathing = 0.3 * np.sin(2 * np.pi * 0.27 * np.arange(volumes))[:, None] * scale
    return np.asarray(np.cumsum(steps, axis=0) + breathing)


def _of_motion(rng: np.random.Generator, motion: NDArray[np.float64], regions: int) -> NDArray[np.float64]:
    """(T, N) what motion does to the signal: a part that follows position, and a spike at every jerk."""
    change = np.abs(np.diff(motion, axis=0, prepend=motion[:1])) @ np.array([1, 1, 1, 50, 50, 50.0])
    position = (motion - motion.mean(axis=0)) * np.array([1, 1, 1, 50, 50, 50.0])
    spikes = np.outer(change * (change > 0.2), rng.normal(-4, 1, regions))
    return np.asarray(position @ rng.normal(0, 0.5, (6, regions)) + spikes)
