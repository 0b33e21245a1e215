"""From the parameters of a create request to an accepted order, or to the service's reason against it."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Sequence

import attrs

from canfar_batch.local import registry, templating
from canfar_batch.local.answers import Refusal, illegal, unexpected
from canfar_batch.local.containers import GIB, Order, Resources
from canfar_batch.local.parameters import Parameters

SESSION_TYPES = ("headless", "notebook", "desktop", "carta", "contributed", "firefly", "desktop-app")
_JAVA_DOUBLE = re.compile(
    r"[-+]?(?:NaN|Infinity|(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][-+]?[0-9]+)[fFdD]?)"
)
_JAVA_BLANKS = "".join(map(chr, range(33)))
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_END = re.compile(r"[^A-Za-z0-9]+$")
_MEMORY_OPTIONS = "1 2 4 6 8 10 12 14 16 20 24 26 28 30 32 36 40 44 48 56 64 80 92 112 128 140 170 192"


@attrs.frozen
class Limits:
    """The resources that one container may ask for, and those it gets unasked. RAM in GiB."""

    cores: Sequence[int] = tuple(range(1, 17))
    ram: Sequence[int] = tuple(map(int, _MEMORY_OPTIONS.split()))
    gpus: Sequence[int] = tuple(range(1, 29))
    default_cores: float = 2  #: the default that the context names; a flexible container gets *requested*
    default_ram: float = 8
    requested: Resources = attrs.field(factory=Resources)  #: of a container that asks for nothing
    is_limit_range: bool = False  #: whether they come from a LimitRange, which refuses pods above its maximum


#: the limits of a cluster with a LimitRange, as production has one
LIMIT_RANGE = Limits(
    cores=tuple(range(1, 13)),
    ram=tuple(range(1, 97)),
    gpus=tuple(range(1, 5)),
    default_cores=1,
    default_ram=4,
    is_limit_range=True,
)


@attrs.frozen(kw_only=True)
class Rules:
    """The rules for a create request."""

    hostname: str
    limits: Limits
    has_gpus: bool  #: whether accepted GPUs are used
    is_listed: Callable[[str], bool]  #: whether an image is known to be public


def check(parameters: Parameters, rules: Rules) -> Accepted:
    """Check the parameters in the service's order, up to the limit on sessions.

    Raises:
        Refusal: A parameter is missing or refused.
    """
    image = parameters.first("image")
    if image is None:
        raise illegal("Missing parameter 'image'")
    if not image.strip():
        raise illegal("image is required")
    registry.check_host(image)
    kind = session_type(parameters.first("type"))
    cores, ram = sizes(parameters, rules.limits)
    name = parameters.first("name")
    if name is None or not name.strip():
        raise illegal("Missing parameter 'name'")
    if re.fullmatch(r"[A-Za-z0-9-]+", name) is None:
        raise illegal("name can only contain alpha-numeric chars and '-'")
    return Accepted(image, kind, name.lower(), cores, ram)


@attrs.frozen
class Accepted:
    """A create request whose first parameters were accepted."""

    image: str
    type: str
    name: str
    cores: float | None
    ram: float | None

    def order(self, parameters: Parameters, rules: Rules, *, user: str, registry_auth: str | None) -> tuple[Order, str]:
        """Check the rest.

        Args:
            parameters: All parameters of the request.
            rules: The rules for them.
            user: The user who asks.
            registry_auth: The header with the registry's credentials, if it came.

        Returns:
            The order, and the name of its Kubernetes Job.

        Raises:
            Refusal: The service would not, or could not, create it.
        """
        gpus = _gpus(parameters, rules.limits.gpus)
        if not rules.is_listed(self.image):
            registry.check_credentials(registry_auth)
        if self.type == "desktop-app":
            raise unexpected("java.nio.file.NoSuchFileException: /root/config/launch-desktop_app.yaml")
        id = new_id()
        job = job_name(self.type, user, id)
        known = {
            "skaha.sessionid": id,
            "skaha.sessionname": self.name,
            "skaha.sessiontype": self.type,
            "skaha.userid": user,
            "skaha.hostname": rules.hostname,
            "skaha.jobname": job,
            "software.imageid": self.image,
            "software.hostname": self.name,
        }
        try:
            bundle = templating.Bundle()
            if self.type == "headless":
                cmd, args, env = parameters.first("cmd"), parameters.first("args"), parameters.all("env")
                bundle = templating.bundle(cmd, args, env, known)
            label = label_value(self.name)
            if templating.retyped(self.name) or self.name != label:
                raise templating.KubectlRefusal(self.name)
        except templating.KubectlRefusal:
            raise job_not_found(job) from None
        resources = _resources(rules.limits, self.cores, self.ram, gpus if rules.has_gpus else 0)
        return Order(id, label, self.type, self.image, bundle, resources), job


def sizes(parameters: Parameters, limits: Limits) -> tuple[float | None, float | None]:
    """Return the cores and the RAM (GiB) that parameters ask for; None for what is missing or blank.

    Raises:
        Refusal: One of them is not on offer.
    """
    return _option(parameters, "cores", limits.cores), _option(parameters, "ram", limits.ram)


def session_type(text: str | None) -> str:
    """Return the type that a parameter names; headless if it is missing or blank.

    Raises:
        Refusal: The type does not exist.
    """
    kind = (text or "").strip().lower() or "headless"
    if kind not in SESSION_TYPES:
        raise illegal(f"Invalid session type: {text}")
    return kind


def job_name(kind: str, user: str, id: str) -> str:
    """Return the name of a session's Kubernetes Job."""
    return re.sub("[^a-z0-9]", "-", f"skaha-{kind}-{user}-{id}".lower())


def new_id() -> str:
    """Draw a session's id as the service does."""
    letters = string.ascii_lowercase
    return secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(7))


def check_label(value: str, label: str = "id") -> None:
    """Check an id that goes into a label selector.

    Raises:
        Refusal: It is not a Kubernetes label value.
    """
    if not value.strip():
        raise illegal(f"canfar.net/{label} label value cannot be blank")
    if len(value) > 63:
        raise illegal(f"canfar.net/{label} label value exceeds 63 characters")
    if not _LABEL.fullmatch(value):
        raise illegal(f"canfar.net/{label} label value must match Kubernetes label value syntax")


def label_value(name: str) -> str:
    """Return the name as a Kubernetes label holds it: cut from the right until it is valid.

    Raises:
        Refusal: Nothing valid remains.
    """
    label = _LABEL_END.sub("", name[:63])
    if not label or not label[0].isalnum():
        raise illegal("canfar.net/name label value cannot be blank")
    return label


def job_not_found(job: str) -> Refusal:
    """Return the answer after kubectl refused a Job: the service looks for it, and finds none."""
    body = (
        '{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",'
        f'"message":"jobs.batch \\"{job}\\" not found","reason":"NotFound",'
        f'"details":{{"name":"{job}","group":"batch","kind":"jobs"}},"code":404}}\n'
    )
    uid = "00000000-0000-4000-8000-000000000000"
    return unexpected(
        "java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: Message: \n"
        f"HTTP response code: 404\nHTTP response body: {body}\n"
        f"HTTP response headers: {{audit-id=[{uid}], cache-control=[no-cache, private], "
        f"content-length=[{len(body)}], content-type=[application/json], date=[Thu, 01 Jan 1970 00:00:00 GMT], "
        f"x-kubernetes-pf-flowschema-uid=[{uid}], x-kubernetes-pf-prioritylevel-uid=[{uid}]}}"
    )


def _resources(limits: Limits, cores: float | None, ram: float | None, gpus: int) -> Resources:
    default = limits.requested
    above = limits.is_limit_range and ((cores or 0) > max(limits.cores) or (ram or 0) > max(limits.ram))
    return Resources(
        cores=default.cores if cores is None else cores,
        cores_limit=default.cores_limit if cores is None else cores,
        ram=default.ram if ram is None else ram,
        ram_limit=default.ram_limit if ram is None else ram,
        gpus=gpus,
        fixed=ram is not None,
        refused=above,
    )


def _option(parameters: Parameters, name: str, options: Sequence[int]) -> float | None:
    """Return a Java double whose integer part is one of *options*; None if the parameter is missing or blank."""
    text = parameters.first(name)
    if text is None or not text.strip():
        return None
    number = java_double(text)
    if number is not None and abs(number) < 1e9 and int(number) in options:
        return number
    raise illegal(f"Invalid value for '{name}': {text}")


def java_double(text: str) -> float | None:
    """Read a number as Java's ``Double.valueOf`` does; None if it is not a number or is NaN."""
    digits = text.strip(_JAVA_BLANKS)
    if not _JAVA_DOUBLE.fullmatch(digits) or digits.endswith("NaN"):
        return None
    if "x" in digits.lower():
        return float.fromhex(digits.rstrip("fFdD"))
    return float(digits.rstrip("fFdD"))


def _gpus(parameters: Parameters, options: Sequence[int]) -> int:
    text = parameters.first("gpus")
    if text is None or not text.strip():
        return 0
    if not re.fullmatch(r"[-+]?\d{1,9}", text) or int(text) not in options:
        raise illegal(f"Invalid value for 'gpus': {text}")
    return int(text)


def shown_ram(gib: float) -> str:
    """Return RAM as the service shows it, in units of 10⁹ bytes.

    A quantity that is not a whole number of bytes is kept in thousandths of a byte, and the service reads these as
    bytes: the result is a thousandfold.
    """
    size = gib * GIB
    return f"{size / 1e9:.2f}" if size == int(size) else f"{size / 1e6:.2f}"
