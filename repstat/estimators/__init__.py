"""Information estimators: one method, one file, one citation. Arrays in, frozen dataclasses out, in nats."""

from repstat.estimators.backend import Backend
from repstat.estimators.binned import BinnedMI, binned_mi
from repstat.estimators.binning import Binning
from repstat.estimators.network_claims import NetworkMI, rise
from repstat.estimators.noise_profile import NoiseProfile, noise_profile
from repstat.estimators.noisy_channel import NoisyMI, noisy_mi, pairwise_bounds
from repstat.estimators.sample_propagation import sample_propagation_mi

__all__ = [
    "Backend",
    "BinnedMI",
    "Binning",
    "NetworkMI",
    "NoiseProfile",
    "NoisyMI",
    "binned_mi",
    "noise_profile",
    "noisy_mi",
    "pairwise_bounds",
    "rise",
    "sample_propagation_mi",
]
