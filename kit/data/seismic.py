"""Synthetic seismic: reflector sections with salt, and how an interpreter would have drawn that salt.

A section follows the convolutional model (Yilmaz, Seismic Data Analysis, 2001, ch. 2): a stratigraphic depth for each
pixel (dip, folds, faults, drag along the salt), reflection coefficients along that depth, a Ricker wavelet, then gain,
noise and migration swings. The salt replaces the layers by something chaotic or quiet and reflects at its boundary.
Wavelengths and distances are in pixels, angles in radians; rows grow downward. The numbers were set so that the tiles
agree with the real ones in spectrum, grey levels, coverage of the masks and the step across seams.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import fft
from scipy.ndimage import convolve1d, distance_transform_edt, gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.special import expit

SAMPLES = 12  # of the reflectivity, per dominant wavelength
SPACING = 320  # of salt bodies along a section


@dataclass(frozen=True)
class Style:
    """What differs between surveys; one draw per section. Amplitudes are against the layers' own."""

    wavelength: float  # of the layers at the top
    coarsening: float  # relative growth of the wavelength from top to bottom
    angle: float  # of the layers against the horizontal
    fold: float  # amplitude of the folds
    faults: int
    continuity: float  # lateral correlation of a reflector, in wavelengths
    lateral: float  # share of the reflectivity that changes laterally, 0 to 1
    noise: float  # amplitude
    swings: float  # amplitude of the migration swings
    chaos: float  # how much ground is chaotic without being salt, 0 to 1
    inside: float  # amplitude within the salt
    boundary: float  # amplitude of the salt's boundary reflection, negative for the other polarity


def regional(rng: Generator) -> Style:
    """A wide section: layers near the horizontal, finer at the top."""
    return Style(
        wavelength=rng.uniform(12.5, 19),
        coarsening=rng.uniform(0.5, 1.5),
        angle=rng.normal(0, 0.06),
        fold=rng.uniform(10, 40),
        faults=rng.poisson(4),
        continuity=rng.uniform(4, 10),
        lateral=rng.uniform(0.5, 0.8),
        noise=rng.gamma(5, 0.15),
        swings=rng.uniform(0.1, 0.7),
        chaos=rng.uniform(0, 0.2),
        inside=rng.uniform(0.4, 1.4),
        boundary=0.8 * _boundary(rng),
    )


def close_up(rng: Generator) -> Style:
    """A single tile from anywhere: every scale and dip."""
    return Style(
        wavelength=math.exp(rng.uniform(math.log(9), math.log(30))),
        coarsening=rng.uniform(0, 0.3),
        angle=rng.uniform(-1.4, 1.4) if rng.random() < 0.25 else rng.normal(0, 0.2),
        fold=rng.uniform(0, 12),
        faults=rng.poisson(0.4),
        continuity=math.exp(rng.uniform(math.log(1.5), math.log(10))),
        lateral=rng.uniform(0.3, 1.0),
        noise=rng.exponential(0.35),
        swings=rng.exponential(0.3),
        chaos=rng.choice([0.0, 0.2]),
        inside=rng.choice([rng.uniform(0.03, 0.3), rng.uniform(0.3, 1.2)]),
        boundary=_boundary(rng),
    )


def _boundary(rng: Generator) -> float:
    """Mostly bright, sometimes hard to see."""
    return rng.choice([1, -1], p=[0.8, 0.2]) * rng.gamma(3, 0.9)


def diapirs(rng: Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Salt that rises from below. Returns (salt, mask), both (H, W) bool.

    The mask is what interpreters drew: only the top, between two vertical limits, and all below it to the last row.
    """
    height, width = shape
    y, x = np.indices(shape, dtype=np.float32)
    salt, mask = np.zeros(shape, bool), np.zeros(shape, bool)
    for centre in np.arange(rng.uniform(-0.3, 1), width / SPACING) * SPACING:
        half = rng.uniform(60, 180)
        crest = rng.uniform(0.1, 0.9) * height
        offset = np.abs(x - centre)
        top = (
            crest
            + half * rng.uniform(0.3, 1.2) * (offset / half) ** rng.uniform(1, 3)
            + _curve(rng, width, 0.12 * half)
        )
        flare = rng.uniform(-0.5, 1.0) * (y - crest) / height
        wall = half * (1 + flare) + _curve(rng, height, 0.08 * half)[:, None]
        salt |= (y > top) & (offset < wall)
        mask |= (y > top) & (offset < half * rng.uniform(0.7, 1.0))
    return salt, mask


def outcrop(rng: Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One stretch of a salt boundary, of any direction, or a sheet with two. Returns (salt, mask), both (H, W) bool.

    The share of salt is drawn first and the boundary moved to it, so that coverage is spread as on the real tiles.
    """
    y, x = np.indices(shape, dtype=np.float32) - np.array(shape, np.float32)[:, None, None] / 2
    angle = rng.choice([rng.normal(0, 0.5), rng.uniform(-np.pi, np.pi)], p=[0.35, 0.65])
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    level = across - _bend(rng, along, rng.uniform(2, 35))
    if rng.random() < 0.25:  # a sheet: a second boundary, not quite parallel
        level = np.minimum(level, rng.uniform(20, 80) - across + along * rng.uniform(-0.5, 0.5) + _bend(rng, along, 10))
    salt = level > np.quantile(level, 1 - rng.beta(0.55, 0.85))
    mask = salt
    if rng.random() < 0.06:  # where the interpretation ends, whatever the salt does
        mask = mask & (rng.choice([-1, 1]) * (x - rng.uniform(-0.4, 0.4) * shape[1]) < 0)
    if rng.random() < 0.12:  # only the top was drawn
        mask = np.logical_or.accumulate(mask, axis=0)
    return salt, mask


def render(rng: Generator, style: Style, salt: np.ndarray) -> np.ndarray:
    """The amplitudes (H, W), float, of a section with the given salt (H, W) bool."""
    shape, wavelength = salt.shape, style.wavelength
    distance = _signed_distance(salt)
    layers = _sediments(rng, style, gaussian_filter(distance, 10))
    chaotic = expit(5 * (_texture(rng, shape, 90, 2) - 2 + 4 * style.chaos))
    layers += chaotic * (rng.uniform(0.4, 1) * _texture(rng, shape, wavelength, 2) - layers)
    within = style.inside * _texture(rng, shape, wavelength * rng.uniform(1, 1.6), 2.5, rng.normal(0, 0.7))
    within += rng.normal(0, 0.3)
    weight = expit(distance / 1.2)
    section = layers + weight * (within - layers)
    noise = style.noise * _texture(rng, shape, rng.uniform(0.4, 1) * wavelength, rng.uniform(0.3, 1.2))
    noise += style.swings * _texture(rng, shape, 0.9 * wavelength, 6, rng.choice([-1, 1]) * rng.uniform(0.5, 1.3))
    section += noise * (1 - weight * max(0, 1 - style.inside))
    strength = style.boundary * np.exp(0.4 * _texture(rng, shape, 40))
    section += strength * _ricker((distance - 1) / (0.4 * wavelength))
    return section - gaussian_filter1d(section, 0.9 * wavelength, axis=0)  # the band has a lower end too


def _signed_distance(salt: np.ndarray) -> np.ndarray:
    """Distance (H, W) to the salt's boundary, positive inside; smoothed so that pixel stairs do not show."""
    if salt.all() or not salt.any():
        return np.where(salt, 1e3, -1e3)
    return gaussian_filter(distance_transform_edt(salt) - distance_transform_edt(~salt), 1)


def _sediments(rng: Generator, style: Style, distance: np.ndarray) -> np.ndarray:
    """The layers without salt (H, W), unit variance before gain; distance (H, W) to the salt, negative outside."""
    depth = _stratigraphy(rng, style, distance)
    depth -= depth.min()
    growth = max(style.coarsening, 0.01) / len(depth)
    sample = SAMPLES * np.log1p(growth * depth) / (growth * style.wavelength)
    count = int(sample.max()) + 2
    spikes = rng.laplace(size=count) * (rng.random(count) < 0.3)  # few and heavy-tailed: some layers shine
    everywhere = convolve1d(spikes, _ricker(np.arange(-SAMPLES, SAMPLES + 1) / (SAMPLES / 4.4)), mode="wrap")
    local = _texture(rng, (count, depth.shape[1]), SAMPLES, style.continuity * style.wavelength / SAMPLES)
    field = np.sqrt(1 - style.lateral**2) * everywhere[:, None] / everywhere.std() + style.lateral * local
    columns = np.broadcast_to(np.arange(depth.shape[1]), depth.shape)
    layers = map_coordinates(field, [sample, columns], order=1)
    return layers * np.exp(0.3 * _texture(rng, depth.shape, 90, 2))


def _stratigraphy(rng: Generator, style: Style, distance: np.ndarray) -> np.ndarray:
    """The depth (H, W) at which each pixel's layer was laid down."""
    height, width = distance.shape
    y, x = np.indices(distance.shape, dtype=np.float32)
    depth = y * math.cos(style.angle) + x * math.sin(style.angle)
    along = x * math.cos(style.angle) - y * math.sin(style.angle)
    for _ in range(3):
        period = rng.uniform(80, 500)
        growing = rng.uniform(0.3, 1) + y / height
        depth += style.fold * period / 500 * growing * np.sin(2 * np.pi * (along / period + rng.random()))
    depth += rng.uniform(0, 40) * np.exp(np.minimum(distance, 0) / 30)  # drag: layers turn up along the salt
    depth += 0.12 * style.wavelength * _texture(rng, distance.shape, 5 * style.wavelength)
    for _ in range(style.faults):
        plane = x - rng.uniform(0, width) + rng.normal(0, 0.8) * (y - height / 2)
        depth += rng.normal(0, 0.5 * style.wavelength) * expit(plane / (0.15 * style.wavelength))
    return depth


def _curve(rng: Generator, length: int, amplitude: float) -> np.ndarray:
    """A rough line (length,): long waves of the given amplitude with jags on them."""
    waves = [gaussian_filter1d(rng.normal(size=length), sigma) for sigma in (25, 7, 2)]
    return amplitude * sum(share * wave / wave.std() for share, wave in zip((1, 0.2, 0.06), waves, strict=True))


def _bend(rng: Generator, along: np.ndarray, amplitude: float) -> np.ndarray:
    """The height (H, W) of a rough line at the positions along (H, W)."""
    reach = int(np.abs(along).max()) + 1
    return np.interp(along, np.arange(-reach, reach), _curve(rng, 2 * reach, amplitude))


def _ricker(x: np.ndarray) -> np.ndarray:
    """The Ricker wavelet, 1 at 0 and zero at +-sqrt(1/2)."""
    return (1 - 2 * x**2) * np.exp(-(x**2))


def _texture(
    rng: Generator, shape: tuple[int, int], wavelength: float, aspect: float = 1, angle: float = 0
) -> np.ndarray:
    """Noise (H, W) of unit variance with a Ricker spectrum: `wavelength` across the grain, `aspect` times it along.

    The grain lies along the rows at angle 0. Made larger and cut: Fourier noise goes on from one edge to the other.
    """
    height, width = (fft.next_fast_len(n + int(wavelength * aspect), real=True) for n in shape)
    ky, kx = fft.fftfreq(height).astype(np.float32)[:, None], fft.rfftfreq(width).astype(np.float32)[None]
    across, along = ky * math.cos(angle) - kx * math.sin(angle), ky * math.sin(angle) + kx * math.cos(angle)
    square = wavelength**2 * (across**2 + (aspect * along) ** 2)
    white = rng.standard_normal((height, width), dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * (square * np.exp(-square)), s=(height, width))[: shape[0], : shape[1]]
    return noise / noise.std()
