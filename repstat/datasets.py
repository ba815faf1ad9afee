"""Data sets and loaders of frameworks, which are told from arrays by the names of their types' modules."""

from typing import Any

from repstat.errors import InputRefusedError

_ARRAYS_OF = {
    "tensorflow.python.data.": "np.concatenate([x for x, y in dataset.as_numpy_iterator()]) if it is batched",
    "torch.utils.data.dataloader.": "np.concatenate([x.numpy() for x, y in loader])",
    "torch.utils.data.": "np.stack([x for x, y in dataset])",
    "keras.src.trainers.data_adapters.": "np.concatenate([dataset[i][0] for i in range(len(dataset))])",
    "datasets.": "np.asarray(dataset.with_format('numpy')['NAME OF THE COLUMN'])",
}
"""By how the module's name begins, how all samples of a data set become an array."""
_ANY = "np.stack(list(samples)) of an iterator over samples"


def refuse_dataset(value: object, what: str, source: str) -> None:
    """Refuse what hands samples out one after the other: NumPy would make one object of it.

    Parameters
    ----------
    value
        Given as an array.
    what
        What it is given for: ``input 'x'``.
    source
        Where it comes from, for the message.

    Raises
    ------
    InputRefusedError
        It is a data set, a loader or an iterator.
    """
    if isinstance(value, list | tuple | str) or hasattr(value, "__array__"):
        return
    fix = _arrays_of(value)
    if fix:
        kind = type(value)
        raise InputRefusedError(
            what=f"{what} is a data set, not an array",
            path=source,
            why=f"found {kind.__module__}.{kind.__qualname__}, and data sets and loaders are not read",
            fix=f"Pass an array of all samples, in one order with the labels: {fix}",
        )


def _arrays_of(value: Any) -> str:
    modules = [f"{base.__module__}." for base in type(value).__mro__]
    for start, fix in _ARRAYS_OF.items():
        if any(module.startswith(start) for module in modules):
            return fix
    return _ANY if hasattr(value, "__next__") else ""
