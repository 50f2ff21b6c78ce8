"""What hosts a Route answers to, and who may see them (serving §1.10).

A target's name in the cluster is fixed: `<tag template>.<namespace>.svc.<cluster domain>`. Its public name comes from
two templates and the domain that config-domain gives the Route's labels. A Route, or one target of it, may be kept
inside the cluster, by a label on the Route or on the target's placeholder Service.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.resources.ingress import Hosts
from controller.resources.metadata import without
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.syntax import fully_qualified_domain_name
from kncore.config.domain import Domain
from kncore.config.network import Network
from kncore.errors import KnError
from kncore.gotemplate import TemplateError
from kncore.strconv import quote

__all__ = ["DomainNameError", "Names"]


class DomainNameError(KnError):
    """The templates do not give a valid domain name."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"domain name error: {problem}")


@dataclass(frozen=True, kw_only=True)
class Names:
    """Host names of one Route."""

    route: Obj
    network: Network
    domain: Domain
    cluster_domain: str = "cluster.local"

    def part(self, tag: str) -> str:
        """The first part of a target's hosts, which is also its placeholder Service's name.

        Raises:
            DomainNameError: the tag template fails.
        """
        name = meta.name(self.route)
        if not tag:
            return name
        try:
            return self.network.tagged_name(tag, name)
        except TemplateError as exc:
            raise DomainNameError(f"failed to execute template: {exc}") from exc

    def local(self, tag: str) -> str:
        """The target's fully qualified name inside the cluster.

        Raises:
            DomainNameError: a label is too long, say.
        """
        return _checked(f"{self.part(tag)}.{meta.namespace(self.route)}.svc.{self.cluster_domain}")

    def public(self, tag: str) -> str:
        """The target's name for everybody.

        Raises:
            DomainNameError: the domain template fails or its result is not a domain name.
        """
        try:
            return _checked(
                self.network.host(
                    self.part(tag),
                    meta.namespace(self.route),
                    self._domain(),
                    annotations=meta.annotations(self.route),
                    labels=meta.labels(self.route),
                )
            )
        except TemplateError as exc:
            raise DomainNameError(f"failed to execute template: {exc}") from exc

    def primary(self, tag: str, *, local: bool) -> str:
        """The one name that URLs show."""
        return self.local(tag) if local else self.public(tag)

    def hosts(self, tag: str, *, local: bool) -> Hosts:
        """All names of a target.

        Args:
            local: the target has no public name.
        """
        full = self.local(tag)
        shorter = full.removesuffix(f".{self.cluster_domain}")
        inside = sorted((shorter.removesuffix(".svc"), shorter, full))
        return Hosts(local=tuple(inside), external=() if local else (self.public(tag),))

    def visibility(self, tags: Iterable[str], services: Mapping[str, Obj]) -> dict[str, bool]:
        """Whether each target is only for callers inside the cluster.

        Args:
            services: placeholder Services by name.
        """
        everything = (
            meta.labels(self.route).get(keys.VISIBILITY) == keys.VISIBILITY_CLUSTER_LOCAL
            or self._domain() == f"svc.{self.cluster_domain}"
        )
        # Whatever the label on a placeholder says, that it is there means "not for everybody".
        return {
            tag: everything or bool(meta.labels(services.get(self.part(tag), {})).get(keys.VISIBILITY)) for tag in tags
        }

    def _domain(self) -> str:
        """The domain of the public name, also of a Route that keeps it to itself."""
        return self.domain.lookup(without(meta.labels(self.route), keys.VISIBILITY))


def _checked(name: str) -> str:
    if problem := fully_qualified_domain_name(name, "url"):
        raise DomainNameError(f"invalid domain name {quote(name)}: {problem}")
    return name
