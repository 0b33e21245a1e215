"""The events that Kubernetes reports of every pod."""

from __future__ import annotations

from canfar_batch.local.containers import Pod

#: the containers that prepare a pod, with their image unless it is the job's
INIT_CONTAINERS = (("backup-original-passwd-groups", None), ("init-users-groups", "redis:8.2.2-bookworm"))


def report_init(pod: Pod, image: str) -> None:
    """Note the events of the containers that prepare the pod, from the end of the first pull on."""
    _report_pulled(pod, image)
    for name, own_image in INIT_CONTAINERS:
        if own_image is not None:
            pod.report("Pulled", f'Container image "{own_image}" already present on machine')
        pod.report("Created", f"Created container: {name}")
        pod.report("Started", f"Started container {name}")


def report_pull(pod: Pod, image: str) -> None:
    """Note the pull of the job's image."""
    pod.report("Pulling", f'Pulling image "{image}"')
    _report_pulled(pod, image)


def _report_pulled(pod: Pod, image: str) -> None:
    message = f'Successfully pulled image "{image}" in 1ms (1ms including waiting). Image size: 1048576 bytes.'
    pod.report("Pulled", message)


def report_start(pod: Pod, job: str) -> None:
    """Note the start of the job's container."""
    pod.report("Created", f"Created container: {job}")
    pod.report("Started", f"Started container {job}")
