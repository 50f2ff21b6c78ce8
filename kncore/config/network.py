"""ConfigMap config-network: host names, ingress, TLS (serving §3.7)."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from kncore.config.reader import Reader
from kncore.config.yamltext import load_mapping
from kncore.gotemplate import Struct, Template
from kncore.strconv import quote

__all__ = ["Network"]

_MESH_MODES: Final = frozenset({"enabled", "disabled", "auto"})
_PROTOCOLS: Final = {"enabled": "enabled", "": "enabled", "disabled": "disabled", "redirected": "redirected"}
# What Go's url.Parse lets stand in a host: unreserved and sub-delims, brackets and colon, and < > " for old times'
# sake.
_HOST_CHARS: Final = re.compile(r"[A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>\"%\x80-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Networking of routes."""

    ingress_class: str = "istio.ingress.networking.knative.dev"
    certificate_class: str = "cert-manager.certificate.networking.knative.dev"
    domain_template: str = "{{.Name}}.{{.Namespace}}.{{.Domain}}"
    """Go template of a route's host name; also knows Annotations and Labels."""
    tag_template: str = "{{.Tag}}-{{.Name}}"
    """Go template of the name a tagged target gets in the host name."""
    external_domain_tls: bool = False
    """Routes get certificates for their public names."""
    cluster_local_domain_tls: bool = False
    system_internal_tls: bool = False
    """TLS between activator and queue-proxy; read once at start."""
    http_protocol: str = "enabled"
    """What port 80 does: `enabled`, `redirected`, or `disabled`."""
    rollout_duration: float = 0.0
    """Traffic moves to a new latest revision over so many seconds; 0 = at once."""
    autocreate_cluster_domain_claims: bool = False
    """DomainMappings claim their domain themselves."""
    enable_mesh_pod_addressability: bool = False
    mesh_compatibility_mode: str = "auto"
    """Whether pods are addressed directly: `enabled` never, `disabled` always, `auto` as far as it works."""
    default_external_scheme: str = "http"
    """Scheme of URLs in status, where a load balancer in front ends TLS."""
    namespace_wildcard_cert_selector: Mapping[str, Any] | None = None
    """Kubernetes label selector of namespaces that get wildcard certificates; None = none."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        ingress = read.string("ingress.class", cls.ingress_class)
        certificate = read.string("certificate.class", cls.certificate_class)
        domain = read.string("domainTemplate", cls.domain_template)
        tag = read.string("tagTemplate", cls.tag_template)
        rollout = read.int64("rolloutDuration", 0)
        claims = read.boolean("autocreateClusterDomainClaims", cls.autocreate_cluster_domain_claims)
        scheme = read.string("defaultExternalScheme", cls.default_external_scheme)

        ingress = read.string("ingress-class", ingress)
        certificate = read.string("certificate-class", certificate)
        domain = read.string("domain-template", domain)
        tag = read.string("tag-template", tag)
        rollout = read.int64("rollout-duration", rollout)
        claims = read.boolean("autocreate-cluster-domain-claims", claims)
        scheme = read.string("default-external-scheme", scheme)
        addressable = read.boolean("enable-mesh-pod-addressability", cls.enable_mesh_pod_addressability)
        mesh = data.get("mesh-compatibility-mode", "").lower()
        selector = read.attempt(
            lambda: _selector(data.get("namespace-wildcard-cert-selector", "")),
            None,
            "namespace-wildcard-cert-selector",
        )
        encryption = read.boolean("internal-encryption", False)

        key = "rollout-duration"
        read.check(rollout >= 0, f"{key} must be a positive integer, but was {rollout}", key, "rolloutDuration")
        read.attempt(lambda: _try_domain(domain), None, "domain-template")
        read.attempt(lambda: _tag_host(tag, "v1", "foo"), None, "tag-template")
        # The first key that is present decides alone.
        tls_keys = ("external-domain-tls", "auto-tls", "autoTLS")
        external = next((data[key] for key in tls_keys if key in data), "").lower() == "enabled"
        written = next((data[key] for key in ("http-protocol", "httpProtocol") if key in data), "")
        protocol = _PROTOCOLS.get(written.lower())
        read.check(
            protocol is not None,
            f"httpProtocol {data.get('http-protocol', '')} in config-network ConfigMap is not supported",
            "http-protocol",
        )
        local = _switch(read, "cluster-local-domain-tls", data)
        internal = _switch(read, "system-internal-tls", data) or encryption
        read.finish()
        return cls(
            ingress_class=ingress,
            certificate_class=certificate,
            domain_template=domain,
            tag_template=tag,
            external_domain_tls=external,
            cluster_local_domain_tls=local,
            system_internal_tls=internal,
            http_protocol=protocol or cls.http_protocol,
            rollout_duration=float(rollout),
            autocreate_cluster_domain_claims=claims,
            enable_mesh_pod_addressability=addressable,
            mesh_compatibility_mode=mesh if mesh in _MESH_MODES else cls.mesh_compatibility_mode,
            default_external_scheme=scheme,
            namespace_wildcard_cert_selector=selector,
        )

    def host(
        self,
        name: str,
        namespace: str,
        domain: str,
        *,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """The public host name of a route, by the domain template.

        Raises:
            TemplateError: the template does not fit this route.
        """
        return _domain_host(self.domain_template, name, namespace, domain, annotations or {}, labels or {})

    def tagged_name(self, tag: str, name: str) -> str:
        """The name that stands for a tagged target of a route in host names, by the tag template.

        Raises:
            TemplateError: the template does not fit.
        """
        return _tag_host(self.tag_template, tag, name)


def _switch(read: Reader, key: str, data: Mapping[str, str]) -> bool:
    text = data.get(key, "").lower()
    read.check(
        text in ("", "enabled", "disabled"),
        f"{key} with value: {quote(data.get(key, ''))} in config-network ConfigMap is not supported",
        key,
    )
    return text == "enabled"


def _selector(source: str) -> dict[str, Any] | None:
    return load_mapping(source, "v1.LabelSelector") if source else None


@functools.lru_cache(maxsize=16)
def _compile(name: str, source: str) -> Template:
    return Template(name, source)


def _domain_host(
    source: str, name: str, namespace: str, domain: str, annotations: Mapping[str, str], labels: Mapping[str, str]
) -> str:
    fields = {
        "Name": name,
        "Namespace": namespace,
        "Domain": domain,
        "Annotations": annotations,
        "Labels": labels,
    }
    return _compile("domain-template", source).execute(Struct("config.DomainTemplateValues", fields))


def _tag_host(source: str, tag: str, name: str) -> str:
    return _compile("tag-template", source).execute(Struct("config.TagTemplateValues", {"Name": name, "Tag": tag}))


def _try_domain(source: str) -> None:
    """Render a host for a made-up route and refuse the template unless the result is a bare host name."""
    url = "https://" + _domain_host(source, "foo", "bar", "baz.com", {}, {})
    host, path, query = _split(url)
    for char in host:
        if not _HOST_CHARS.fullmatch(char):
            raise ValueError(f"parse {quote(url)}: invalid character {quote(char)} in host name")
    port = re.search(r":([^:\]]*)$", host)
    if port and not re.fullmatch(r"[0-9]*", port[1]):
        raise ValueError(f"parse {quote(url)}: invalid port {quote(':' + port[1])} after host")
    if not re.sub(r":[0-9]*$", "", host):
        raise ValueError("empty hostname")
    if (path or "/") + query != "/":
        raise ValueError(f"domain template has url path: {(path or '/') + query}")


def _split(url: str) -> tuple[str, str, str]:
    """Host, path and `?query` of an https URL, taken apart the way Go does it."""
    rest = url.removeprefix("https://").partition("#")[0]
    rest, mark, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    return host, slash + path, mark + query if query else ""
