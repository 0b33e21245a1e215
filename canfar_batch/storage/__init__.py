"""Files on the platform's storage: brought there and back, each proved to be whole.

A *space* is where files are kept (`space.Space`): the platform's storage service, or any file system of fsspec.
`Storage` moves files to it and from it, and believes nothing that it has not checked.
"""

from canfar_batch.storage.fsspec_space import FsspecSpace
from canfar_batch.storage.inputs import Inputs, as_inputs
from canfar_batch.storage.space import RemoteFile, Space
from canfar_batch.storage.transfers import Progress, Storage

__all__ = ["FsspecSpace", "Inputs", "Progress", "RemoteFile", "Space", "Storage", "as_inputs"]
