"""From the parameters of a create request to an accepted order, or to the service's reason against it."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string
from collections.abc import Callable, Sequence

from canfar_batch.local import templating
from canfar_batch.local.answers import Refusal, illegal, unexpected
from canfar_batch.local.containers import Order, Resources
from canfar_batch.local.parameters import Parameters

SESSION_TYPES = ("headless", "notebook", "desktop", "carta", "contributed", "firefly", "desktop-app")
REGISTRY_HOSTS = ("images.canfar.net",)
CORES = tuple(range(1, 17))
_MEMORY_OPTIONS = "1 2 4 6 8 10 12 14 16 20 24 26 28 30 32 36 40 44 48 56 64 80 92 112 128 140 170 192"
MEMORY_GIB = tuple(map(int, _MEMORY_OPTIONS.split()))
GPUS = tuple(range(1, 29))
_JAVA_DOUBLE = re.compile(r"[-+]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fFdD]?)")
_LABEL_END = re.compile(r"[^A-Za-z0-9]+$")


def order(
    parameters: Parameters,
    *,
    user: str,
    hostname: str,
    gpus: bool,
    public: Callable[[str], bool],
    registry_auth: str | None,
) -> tuple[Order, str]:
    """Check a create request.

    Args:
        parameters: What was sent.
        user: Who asks.
        hostname: The service's own, for the template.
        gpus: Whether there are GPUs; without any, the parameter is ignored.
        public: Whether an image is known to be public.
        registry_auth: The header with the registry's credentials, if it came.

    Returns:
        The order, and the name of its Kubernetes Job.

    Raises:
        Refusal: The service would not, or could not, create it.
    """
    image, name = parameters.first("image"), parameters.first("name")
    if image is None:
        raise illegal("Missing parameter 'image'")
    if name is None:
        raise illegal("Missing parameter 'name'")
    if re.fullmatch(r"[A-Za-z0-9-]+", name) is None:
        raise illegal("name can only contain alpha-numeric chars and '-'")
    if not image.startswith(REGISTRY_HOSTS):
        raise illegal(f"session image '{image}' must come from one of [{', '.join(REGISTRY_HOSTS)}]")
    type_ = (parameters.first("type") or "").strip().lower() or "headless"
    if type_ not in SESSION_TYPES:
        raise illegal(f"Invalid session type: {type_}")
    resources = _resources(parameters, gpus)
    if not public(image):
        _check_registry_auth(registry_auth)
    id_ = new_id()
    job = job_name(type_, user, id_)
    name = name.lower()
    known = {
        "skaha.sessionid": id_,
        "skaha.sessionname": name,
        "skaha.sessiontype": type_,
        "skaha.userid": user,
        "skaha.hostname": hostname,
        "skaha.jobname": job,
        "software.imageid": image,
        "software.hostname": name,
    }
    try:
        bundle = templating.Bundle()
        if type_ == "headless":
            cmd, args, env = parameters.first("cmd"), parameters.first("args"), parameters.all("env")
            bundle = templating.bundle(cmd, args, env, known)
        label = label_value(name)
        if templating.retyped(name) or name != label:
            raise templating.KubectlRefusal(name)
    except templating.KubectlRefusal:
        raise job_not_found(job) from None
    return Order(id_, label, type_, image, bundle, resources), job


def job_name(type_: str, user: str, id_: str) -> str:
    """The name of a session's Kubernetes Job."""
    return re.sub("[^a-z0-9]", "-", f"skaha-{type_}-{user}-{id_}".lower())


def new_id() -> str:
    """A session's id, as the service draws it."""
    letters = string.ascii_lowercase
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(7))


def label_value(name: str) -> str:
    """The name as a Kubernetes label holds it: cut from the right until it is valid.

    Raises:
        Refusal: Nothing valid is left.
    """
    label = _LABEL_END.sub("", name[:63])
    if not label or not label[0].isalnum():
        raise illegal("canfar.net/name label value cannot be blank")
    return label


def job_not_found(job: str) -> Refusal:
    """What the service says when kubectl refused a Job: it looks for it, and there is none."""
    return unexpected(
        "java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: Message: \n"
        "HTTP response code: 404\n"
        'HTTP response body: {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",'
        f'"message":"jobs.batch \\"{job}\\" not found","reason":"NotFound",'
        f'"details":{{"name":"{job}","group":"batch","kind":"jobs"}},"code":404}}\n'
        "HTTP response headers: {}"
    )


def _resources(parameters: Parameters, gpus: bool) -> Resources:
    cores = _option(parameters, "cores", CORES)
    ram = _option(parameters, "ram", MEMORY_GIB)
    cards = _gpus(parameters) if gpus else 0
    default = Resources()
    return Resources(
        cores=default.cores if cores is None else cores,
        cores_limit=default.cores_limit if cores is None else cores,
        ram=default.ram if ram is None else ram,
        ram_limit=default.ram_limit if ram is None else ram,
        gpus=cards,
        fixed=ram is not None,
    )


def _option(parameters: Parameters, name: str, options: Sequence[int]) -> float | None:
    """A Java double whose integer part must be on offer."""
    text = parameters.first(name)
    if text is None:
        return None
    if _JAVA_DOUBLE.fullmatch(text.strip()):
        number = float(text.strip().rstrip("fFdD").replace("Infinity", "inf"))
        if abs(number) < 1e9 and int(number) in options:
            return number
    raise illegal(f"Invalid value for '{name}': {text}")


def _gpus(parameters: Parameters) -> int:
    text = parameters.first("gpus")
    if text is None:
        return 0
    if not re.fullmatch(r"[-+]?[0-9]{1,9}", text) or int(text) not in GPUS:
        raise illegal(f"Invalid value for 'gpus': {text}")
    return int(text)


def _check_registry_auth(header: str | None) -> None:
    if header is None:
        raise illegal(
            "No authentication provided for unknown or private image.  Use x-skaha-registry-auth request header "
            "with base64Encode(username:secret)."
        )
    try:
        text = base64.b64decode(header, validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    pieces = [piece.strip() for piece in text.split(":")]
    if len(pieces) != 2 or not all(pieces):
        raise illegal("Invalid input.  Must be in form of username:secret")
