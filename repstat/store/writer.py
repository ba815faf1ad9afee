"""Write a store checkpoint by checkpoint, so that whatever is finished survives whatever happens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from repstat.adapter import Layer
from repstat.errors import ResourceError, StoreIncompleteError, UsageError
from repstat.store import disk
from repstat.store.agreement import differences, summary
from repstat.store.builder import StoreFileBuilder
from repstat.store.checkpoint import CheckpointWriter
from repstat.store.header import Header
from repstat.store.layout import predicted_bytes
from repstat.store.lock import OutputLock, output_lock
from repstat.store.merge import join
from repstat.store.noise import Conditional, NoiseRecord, check_noise
from repstat.store.output import (
    check_replaceable,
    check_space,
    disk_errors,
    exists_already,
    located,
)
from repstat.store.parts import FolderSwap, Parts, part_name
from repstat.store.schema import Checkpoint, Samples, check_layers, check_step, to_json
from repstat.store.signals import uninterrupted
from repstat.store.staging import stale_files
from repstat.store.storefile import StoreFile, load, value_problems
from repstat.store.values import ValueRecord


class StoreWriter:
    """Writes a store, or what is missing of one. A context manager that holds the output's lock.

    Parameters
    ----------
    path
        The file to write; the folder, with `folder`.
    samples, layers, steps
        What will be in the store. `layers` in forward order. Without `steps` any may come; what is there
        already is then only added to with `resume`.
    identity
        JSON of all that changes values: what must be equal for finished checkpoints to be taken over.
    n_realizations
        Noisy passes per sample.
    noise
        Of a noisy network: what its layers add.
    conditional
        Of a noisy network: which inputs are repeated, and in which layers that is recorded.
    folder
        Keep one file per checkpoint.
    resume
        Complete `path` if it exists.
    overwrite
        Replace `path` if it exists, once the new store is complete.
    checkpoint_sha256
        By step, the hash of the model's file where known; a finished checkpoint of another file is refused.
    lock
        The output's lock (`output_lock`), if the caller holds it already.

    Raises
    ------
    UsageError
        On entry, if `path` exists and neither `resume` nor `overwrite` is given, or what was written
        before is of another identity, naming what differs.
    LockedError
        On entry, if another process writes the same output.
    ResourceError
        On entry, if the space will not suffice.
    StoreDamagedError
        On entry, if a finished checkpoint is no longer sound.
    InputRefusedError
        If the format cannot hold the layers or the repeated inputs.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        samples: Samples,
        layers: Sequence[Layer],
        steps: Sequence[int] | None,
        identity: Mapping[str, Any],
        n_realizations: int = 1,
        noise: NoiseRecord | None = None,
        conditional: Conditional | None = None,
        folder: bool = False,
        resume: bool = False,
        overwrite: bool = False,
        checkpoint_sha256: Mapping[int, str] | None = None,
        lock: OutputLock | None = None,
    ) -> None:
        self._path, self._output = Path(path), located(path)
        self._open_ended = steps is None
        self._steps = tuple(check_step(step) for step in steps or ())
        check_layers(tuple(layers))
        to_json(identity, what="the identity")
        _check_arguments(n_realizations, resume=resume, overwrite=overwrite)
        if not self._open_ended:
            _check_steps(self._steps)
        check_noise(noise, conditional, samples.n, layers)
        self._header = Header(
            samples, tuple(layers), (), identity, n_realizations, noise=noise, conditional=conditional
        )
        self._folder, self._resume, self._overwrite = folder, resume, overwrite
        self._sha256 = checkpoint_sha256 or {}
        self._lock = lock
        self._base: StoreFile | None = None
        self._joined = False
        self._swap = FolderSwap(self._output)
        self._parts = Parts(self._output if folder else self._swap.staging)
        self._stack = ExitStack()

    @property
    def finished(self) -> Mapping[int, Checkpoint]:
        """The checkpoints that are safely on the disk, by step."""
        return {
            checkpoint.step: checkpoint for file in self._sources() for checkpoint in file.header.checkpoints
        }

    @property
    def records(self) -> Mapping[int, Mapping[str, ValueRecord]]:
        """By step and layer, hash and counts of the activations that are safely on the disk."""
        return {
            step: {layer.key: file.records[layer.key][index] for layer in file.header.layers}
            for file in self._sources()
            for index, step in enumerate(file.header.steps)
        }

    @property
    def done(self) -> frozenset[int]:
        """Steps that need not be computed."""
        return frozenset(self.finished)

    @property
    def complete(self) -> bool:
        """Whether the output itself has every step and all that is done: not even `finish` has work."""
        if self._folder:
            present = self.done if self._parts.folder == self._output else frozenset()
        else:
            present = frozenset(self._base.header.steps if self._base else ())
        if self._open_ended:
            return bool(self.done) and present == self.done
        return present.issuperset(self._steps) and present == self.done

    @property
    def required_bytes(self) -> int:
        """Space that is still needed, the copy that joins the parts to one file included.

        Without announced steps that of one more checkpoint.
        """
        if self._open_ended:
            return self._predict(1)
        missing = set(self._steps) - self.done
        required = len(missing) * self._predict(1)
        n_checkpoints = len(self.done | missing)
        # A single part becomes the file itself.
        if not self._folder and n_checkpoints > 1 and not self.complete:
            required += self._predict(n_checkpoints)
        return required

    def _predict(self, n_checkpoints: int) -> int:
        header = self._header
        return predicted_bytes(
            header.samples.n, header.layers, n_checkpoints, header.n_realizations, header.conditional
        )

    def _sources(self) -> list[StoreFile]:
        """List the files that make up the result; what the output has already is not taken from a part."""
        if self._base is None:
            return list(self._parts.files)
        held = set(self._base.header.steps)
        return [self._base, *(f for f in self._parts.files if held.isdisjoint(f.header.steps))]

    def __enter__(self) -> Self:
        with ExitStack() as stack, disk_errors(self._output):
            if self._lock is None:
                stack.enter_context(output_lock(self._output))
            self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is None or isinstance(error, ResourceError) or not self.done:
            return
        advice = "Run the same command again to go on."
        if isinstance(error, Exception) and not isinstance(error, OSError | MemoryError):
            # It would come again. What helps is said by whoever knows the checkpoint that was refused.
            advice = "" if self._parts.folder == self._output else "Remove that folder to start anew."
        error.add_note(f"{self._kept()} {advice}".strip())

    def _prepare(self) -> None:
        """Take stock of the output and of what an earlier run left."""
        # Whoever gave them their names may have died before that was durable; it is relied on from here on.
        disk.sync_folder(self._output.parent)
        for stale in stale_files(self._output.parent, self._output.name):
            disk.remove(stale)
        if self._folder:
            self._swap.recover()
            # Asked first: a folder of something else is refused whether or not it would be overwritten.
            in_use = self._swap.in_use()
            if self._overwrite and in_use:
                self._parts = Parts(self._swap.staging)
        elif self._output.is_file() and not self._output.is_symlink() and (self._resume or self._is_late()):
            self._base = self._compare(load(self._output))
            if not (self._resume or self.complete):
                raise exists_already(self._output)
        else:
            check_replaceable(self._output, overwrite=self._overwrite)
        staged = self._parts.folder != self._output
        self._parts.load(self._compare, discard=self._overwrite and staged)
        if self._base is not None and not (self._resume or self.complete):
            raise exists_already(self._output)  # of what an interrupted `--resume` added, it is no part yet
        if self._open_ended and self._overwrite and staged:
            self._parts.remove(self.done)
        if self._open_ended and self.done and not self._resume:
            raise UsageError(
                what=f"{self._parts.folder} holds {len(self.done)} checkpoints of an earlier recording",
                fix="Pass resume=True to go on with it, overwrite=True to replace it, or give another store.",
            )
        if self._folder and self.complete and not self._resume:
            raise exists_already(self._output)
        if self.complete:
            self._clean_up()
        if self._open_ended or not self.complete:
            check_space(self._output, self.required_bytes)

    def _is_late(self) -> bool:
        """Whether the last run may have died after the output got its name, before it had tidied up."""
        return not self._overwrite and not self._open_ended and self._parts.folder.is_dir()

    def _compare(self, file: StoreFile) -> StoreFile:
        """Take over a file of an earlier run, unless it was made differently."""
        pattern = "{name} was {first}, now {second}"
        why = summary(differences(file.header, self._header), pattern)
        for checkpoint in file.header.checkpoints:
            now = self._sha256.get(checkpoint.step, "")
            if not why and now and checkpoint.sha256 not in ("", now):
                why = f"the sha256 of step {checkpoint.step} was {checkpoint.sha256}, now {now}"
        if why:
            raise UsageError(
                what=f"{file.path} was made differently",
                why=why,
                fix="Pass --overwrite (overwrite=True) to start again, or give another output (-o, store=).",
            )
        return file.sharing(self._header.samples)

    @contextmanager
    def checkpoint(self, checkpoint: Checkpoint) -> Iterator[CheckpointWriter]:
        """Write one checkpoint: durable when the block ends, absent if it raises.

        Raises
        ------
        UsageError
            If the step was not announced, or is there already.
        InputRefusedError
            If the block ends before every layer has every sample.
        ResourceError
            If the disk is full; finished checkpoints are kept.
        """
        step = checkpoint.step
        if self._open_ended:
            check_step(step)
            check_space(self._output, self.required_bytes)
        elif step not in self._steps:
            raise UsageError(what=f"cannot write step {step}", path=self._path, why="it was not announced")
        if step in self.done:
            raise UsageError(what=f"cannot write step {step}", path=self._path, why="it is there already")
        header = replace(self._header, checkpoints=(checkpoint,))
        builder: StoreFileBuilder | None = None
        try:
            # Held back, an interrupt finds the builder in its place, and its file is removed.
            with self._errors(), uninterrupted():
                self._parts.create()
                builder = StoreFileBuilder(self._parts.folder / part_name(step), header)
            writer = CheckpointWriter(builder, header, self._errors)
            yield writer
            writer.check_complete()
            with self._errors():
                self._parts.files.append(builder.commit().sharing(self._header.samples))
        finally:
            if builder is not None:
                builder.discard()
            self._parts.give_back()

    def _errors(self) -> AbstractContextManager[None]:
        return disk_errors(self._output, self._kept)

    def _kept(self) -> str:
        if self._open_ended:
            return f"{len(self.done)} checkpoints are finished and kept in {self._parts.folder}."
        n = len(self.done.union(self._steps))
        return f"{len(self.done)} of {n} checkpoints are finished and kept in {self._parts.folder}."

    def drop_from(self, step: int) -> frozenset[int]:
        """Remove the checkpoints from `step` on, which belong to a training that was given up.

        Returns
        -------
        frozenset of int
            The steps removed.

        Raises
        ------
        UsageError
            If the output itself holds one of them: files are never opened for writing twice.
        """
        held = [s for s in (self._base.header.steps if self._base else ()) if s >= step]
        if held:
            raise UsageError(
                what=f"cannot replace step {held[0]}",
                path=self._path,
                why="the finished store holds it",
                fix="Give another store for the training that goes on from an earlier step.",
            )
        dropped = frozenset(s for s in self.done if s >= step)
        self._parts.remove(dropped)
        return dropped

    def finish(self) -> Path:
        """Make one store of all checkpoints, under its name.

        Raises
        ------
        StoreIncompleteError
            Naming the steps that are missing.
        StoreDamagedError
            If a part is no longer what was written.
        ResourceError
            If the disk is full; the parts are kept.
        """
        if not self.done:
            raise StoreIncompleteError(
                what="the store is empty", path=self._path, why="no checkpoint was recorded"
            )
        missing = sorted(set(self._steps) - self.done)
        if missing:
            raise StoreIncompleteError(
                what="the store is incomplete",
                path=self._path,
                why=f"{len(missing)} of {len(self._steps)} steps are missing, the first is {missing[0]}",
                fix="Run the same command again to resume.",
            )
        if not self.complete:
            with self._errors():
                self._join()
                self._clean_up()
        return self._path

    def _join(self) -> None:
        sources = self._sources()
        if self._folder:
            self._swap.commit()
            self._parts = Parts(self._output)
            self._parts.load(self._compare, verify=False)
        elif len(sources) == 1 and self._base is None:
            disk.rename(sources[0].path, self._output)
            disk.sync_folder(self._output.parent)
            self._base = replace(sources[0], path=self._output)
        else:
            self._base = join(sources, self._output)
            self._joined = True

    def _clean_up(self) -> None:
        """Remove parts that the output holds."""
        if self._base is None:
            return
        held = frozenset(self._base.header.steps)
        if not self._joined and any(held.issuperset(file.header.steps) for file in self._parts.files):
            # Found, not written and read back by this run: they are all there is beside it.
            for problem in value_problems(self._base):
                raise problem
        self._parts.remove(held)


def _check_arguments(n_realizations: int, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UsageError(what="resume and overwrite exclude each other", fix="Pass one of them.")
    if n_realizations < 1:
        raise UsageError(what=f"{n_realizations} realizations cannot be stored", fix="Ask for 1 or more.")


def _check_steps(steps: tuple[int, ...]) -> None:
    if not steps:
        raise UsageError(what="there are no checkpoints to store", fix="Give at least one.")
    twice = sorted({step for step in steps if steps.count(step) > 1}) if len(set(steps)) < len(steps) else []
    if twice:
        raise UsageError(what=f"step {twice[0]} occurs twice", fix="Give every checkpoint a step of its own.")
