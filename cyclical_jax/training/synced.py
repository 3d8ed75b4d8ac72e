"""Checkpoints that are on the disk before they get their names and older ones are deleted."""

import asyncio
import os
from pathlib import Path

import orbax.checkpoint as ocp

from cyclical_jax._files import sync


class SyncedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The folder into which Orbax writes a checkpoint, and which it renames when it is complete.

    Orbax syncs only the arrays, not their descriptions and not the names of the folders. After a
    power failure all checkpoints could exist by name, but none could be read. Orbax calls
    `finalize` in the background, in the first process, and deletes older checkpoints after it.
    """

    async def finalize(self) -> None:
        """Renames the folder when the checkpoint is on the disk; then its name is there, too.

        Raises:
          OSError: It cannot be written.
        """
        final = Path(self.get_final())
        if not final.name.isdecimal():  # an item, which is synced with its checkpoint
            await super().finalize()
            return
        await asyncio.to_thread(_sync_all, Path(self.get()))
        await super().finalize()
        await asyncio.to_thread(_sync_names, final)


def _sync_all(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def _sync_names(checkpoint: Path) -> None:
    """Syncs what `finalize` of Orbax writes: files beside the items, and the checkpoint's name."""
    for path in (*filter(Path.is_file, checkpoint.iterdir()), checkpoint, checkpoint.parent):
        sync(path)
