"""Named arrays in files, read block by block: what they declare is checked before anything is allocated."""

from repstat.tensors.hdf5 import read_hdf5
from repstat.tensors.npy import read_npy
from repstat.tensors.npz import read_npz
from repstat.tensors.safetensors import read_safetensors
from repstat.tensors.tensor import Tensor, of_array

__all__ = ["Tensor", "of_array", "read_hdf5", "read_npy", "read_npz", "read_safetensors"]
