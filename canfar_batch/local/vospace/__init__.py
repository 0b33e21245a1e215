"""The storage service of the local platform: a VOSpace over a directory that stands for `/arc`.

It answers as the platform's own service, cavern, does: with its forms, texts and statuses. The faults of the real
service are in `hazards`; each can be switched off.
"""

from canfar_batch.local.vospace.service import StorageService, StorageSettings

__all__ = ["StorageService", "StorageSettings"]
