"""The edge: who gets in, what a path names, which form is answered, what a body holds."""

import base64
import datetime
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from cryptography import x509

from torpor.embedded.apiserver import discovery, tls
from torpor.embedded.apiserver.addresses import AddressPool
from torpor.embedded.apiserver.auth import Gate, User
from torpor.embedded.apiserver.decode import decode, decode_object, duplicates
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.negotiate import Form, discovery_version, form
from torpor.embedded.apiserver.podstreams import choose_container, log_options
from torpor.embedded.apiserver.registry import Registry
from torpor.embedded.apiserver.routes import find

REGISTRY = Registry()


def kind(plural: str, group: str = "", version: str = "v1") -> Any:
    return REGISTRY.find(group, version, plural)


# --------------------------------------------------------------------------------------------------------- the gate

GATE = Gate({"secret": User("ada")}, ["127.0.0.1", "localhost", "::1"])


def knock(path: str = "/api", **headers: str) -> User | None:
    given = {"Host": "127.0.0.1:6443", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return GATE.check(path, given)


def refusal(**headers: str) -> int:
    with pytest.raises(StatusError) as caught:
        knock(**headers)
    return caught.value.code


def test_the_token_opens() -> None:
    assert knock(Authorization="Bearer secret") == User("ada")
    assert knock(Authorization="bearer secret", Host="localhost") == User("ada")
    assert knock(Authorization="Bearer secret", Host="[::1]:6443") == User("ada")


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer wrong", "Bearer secrets", "Basic secret", "Bearer s\udcffecret"]
)
def test_nothing_else_does(value: str) -> None:
    assert refusal(Authorization=value) == 401


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example:6443", "169.254.169.254", "[::1"])
def test_a_server_called_by_another_name_is_being_tricked(host: str) -> None:
    assert refusal(Authorization="Bearer secret", Host=host) == 403
    assert refusal(path="/healthz", Host=host) == 403


def test_web_pages_are_refused_even_with_the_token() -> None:
    assert refusal(Authorization="Bearer secret", Origin="https://evil.example") == 403
    assert refusal(Authorization="Bearer secret", Origin="null") == 403
    assert knock(Authorization="Bearer secret", Origin="https://127.0.0.1:6443") == User("ada")


def test_health_and_version_are_open() -> None:
    for path in ("/healthz", "/livez/ping", "/readyz", "/version"):
        assert knock(path) is None
    assert refusal(path="/versions") == 401


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/pods", ("pods", None, "", "")),
        ("/api/v1/namespaces/ns/pods", ("pods", "ns", "", "")),
        ("/api/v1/namespaces/ns/pods/p", ("pods", "ns", "p", "")),
        ("/api/v1/namespaces/ns/pods/p/log", ("pods", "ns", "p", "log")),
        ("/api/v1/namespaces", ("namespaces", None, "", "")),
        ("/api/v1/namespaces/ns", ("namespaces", None, "ns", "")),
        ("/api/v1/namespaces/ns/status", ("namespaces", None, "ns", "status")),
        ("/api/v1/namespaces/ns/finalize", ("namespaces", None, "ns", "finalize")),
        ("/api/v1/nodes/n/status", ("nodes", None, "n", "status")),
        ("/apis/apps/v1/namespaces/ns/deployments/d/scale", ("deployments", "ns", "d", "scale")),
        ("/apis/apps/v1/deployments", ("deployments", None, "", "")),
    ],
)
def test_paths_name_places(path: str, found: tuple[Any, ...]) -> None:
    target = find(REGISTRY, path)
    assert target is not None
    assert (target.kind.plural, target.namespace, target.name, target.subresource) == found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/pods/p",  # a namespaced object without its namespace
        "/api/v1/namespaces/ns/nodes/n",  # a cluster-wide one with one
        "/api/v1/namespaces/ns/pods/p/log/more",
        "/api/v1/namespaces//pods",
        "/apis/apps/v1",
        "/apis/apps/v1/nothings",
        "/apis/nothing.io/v1/namespaces/ns/pods",
    ],
)
def test_other_paths_name_nothing(path: str) -> None:
    assert find(REGISTRY, path) is None


# -------------------------------------------------------------------------------------------------------- negotiation

TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"  # noqa: E501


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", Form()),
        ("*/*", Form()),
        ("application/json", Form()),
        (TABLE, Form("Table")),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Form()),
        ("application/vnd.kubernetes.protobuf,application/json", Form()),
        ("application/yaml", Form(yaml=True)),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Form("PartialObjectMetadata")),
        ("application/json;q=0.5,application/yaml", Form(yaml=True)),
    ],
)
def test_the_best_form_both_know(accept: str, wanted: Form) -> None:
    assert form(accept) == wanted


@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kubernetes.protobuf", "application/json;q=0"])
def test_forms_we_do_not_have(accept: str) -> None:
    with pytest.raises(StatusError) as caught:
        form(accept)
    assert caught.value.code == 406


def test_discovery_answers_in_a_version_the_client_offered() -> None:
    assert discovery_version(DISCOVERY) == "v2"
    old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    assert discovery_version(old) == "v2beta1"
    assert discovery_version("application/json") == ""
    assert (
        discovery_version("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json") == ""
    )
    for version in ("v2", "v2beta1"):
        document = discovery.aggregated(REGISTRY.kinds(), version, core=False)
        assert document["apiVersion"] == f"apidiscovery.k8s.io/{version}"
        (apps,) = (group for group in document["items"] if group["metadata"]["name"] == "apps")
        deployments = apps["versions"][0]["resources"][0]
        assert (deployments["resource"], deployments["scope"]) == ("deployments", "Namespaced")
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        assert {one["subresource"]: one["responseKind"] for one in deployments["subresources"]}["scale"] == scale


def test_plain_discovery_lists_the_same() -> None:
    flat = discovery.resource_list("v1", [kind("pods")])
    assert [one["name"] for one in flat["resources"]] == ["pods", "pods/status", "pods/log", "pods/exec"]
    names = [group["name"] for group in discovery.group_list(REGISTRY.kinds())["groups"]]
    assert names == [
        group["metadata"]["name"] for group in discovery.aggregated(REGISTRY.kinds(), "v2", core=False)["items"]
    ]


# ------------------------------------------------------------------------------------------------------------ bodies


def test_bodies_in_json_and_yaml() -> None:
    json = b'{"metadata": {"name": "a"}}'
    made = decode_object(kind("configmaps"), json, "application/json")
    assert made == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    text = b"metadata:\n  name: a\ndata:\n  day: 2024-01-01\n"
    assert decode_object(kind("configmaps"), text, "application/yaml")["data"] == {"day": "2024-01-01"}
    assert decode(json, "application/apply-patch+yaml") == {"metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("body", "media_type", "code"),
    [
        (b"", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"metadata": 1}', "application/json", 400),
        (b'{"kind": "Secret"}', "application/json", 400),
        (b'{"apiVersion": "v2"}', "application/json", 400),
        (b"{}", "text/html", 415),
        (b"a: &x [1]\nb: *x\n", "application/yaml", 400),
        (b"a: [", "application/yaml", 400),
        (b"k8s\0garbage", "application/vnd.kubernetes.protobuf", 400),
        (b"[" * 100_000, "application/json", 400),
    ],
)
def test_bodies_that_are_none(body: bytes, media_type: str, code: int) -> None:
    with pytest.raises(StatusError) as caught:
        decode_object(kind("configmaps"), body, media_type)
    assert caught.value.code == code


def test_fields_named_twice_are_found() -> None:
    body = b'{"a": 1, "b": [{"c": 1, "c": 2}], "a": {"d": {"e": 1, "e": 1}}}'
    assert duplicates(body) == ["a", "a.d.e", "b[0].c"]
    assert duplicates(b'{"a": 1}') == []
    assert duplicates(b"not json") == []


# ------------------------------------------------------------------------------------------------------------- pods

TWO = {
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
}
ONE = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}


def test_which_container_is_meant() -> None:
    assert choose_container(ONE, "") == "a"
    assert choose_container(TWO, "i") == "i"
    with pytest.raises(StatusError) as caught:
        choose_container(TWO, "")
    assert caught.value.message == (
        "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
    )
    with pytest.raises(StatusError, match="container c is not valid for pod p"):
        choose_container(TWO, "c")


def test_log_options() -> None:
    options = log_options({"follow": "true", "tailLines": "5", "sinceSeconds": "60", "timestamps": "1"}, now=1000.0)
    assert (options.follow, options.tail_lines, options.since, options.timestamps) == (True, 5, 940.0, True)
    assert log_options({"sinceTime": "2023-11-14T22:13:20Z"}, now=0.0).since == 1_700_000_000.0
    assert log_options({}, now=0.0).tail_lines is None
    for wrong in (
        {"tailLines": "-1"},
        {"sinceSeconds": "0"},
        {"sinceTime": "yesterday"},
        {"limitBytes": "x"},
        {"sinceSeconds": "1", "sinceTime": "2023-11-14T22:13:20Z"},
    ):
        with pytest.raises(StatusError):
            log_options(wrong, now=0.0)


# ------------------------------------------------------------------------------------------------------- addresses


def test_addresses_rest_before_they_are_given_again() -> None:
    pool = AddressPool("10.0.0.0/29")  # six usable
    first = pool.allocate()
    pool.release(first)
    others = [pool.allocate() for _ in range(5)]
    assert first not in others
    assert pool.allocate() == first
    with pytest.raises(ValueError, match="is full"):
        pool.allocate()
    pool.release(others[2])
    assert pool.allocate(others[2]) == others[2]
    for wrong in (others[2], "10.0.1.1", "no address"):
        with pytest.raises(ValueError, match=r"already allocated|not in the valid range|valid IP"):
            pool.allocate(wrong)


# -------------------------------------------------------------------------------------------------------- identity


def test_credentials_are_private_kept_and_made_anew_when_they_do_not_fit(tmp_path: Path) -> None:
    where = tmp_path / "credentials"
    made = tls.load_or_make(where, ["127.0.0.1", "localhost"])
    assert where.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in where.iterdir()} == dict.fromkeys(
        ("ca.crt", "tls.crt", "tls.key", "token"), 0o600
    )
    assert tls.load_or_make(where, ["localhost", "127.0.0.1"]) == made
    assert tls.load_or_make(where, ["127.0.0.1", "other"]).token != made.token
    (where / "token").write_text("")
    assert tls.load_or_make(where, ["127.0.0.1", "other"]).token
    (where / "tls.crt").write_text("garbage")
    assert tls.load_or_make(where, ["127.0.0.1", "other"]).certificate_pem.startswith("-----BEGIN CERTIFICATE")
    tls.server_context(where)


def test_the_certificate_is_for_these_hosts_by_this_authority_only(tmp_path: Path) -> None:
    made = tls.load_or_make(tmp_path, ["127.0.0.1", "localhost"])
    authority = x509.load_pem_x509_certificate(made.ca_pem.encode())
    certificate = x509.load_pem_x509_certificate(made.certificate_pem.encode())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["127.0.0.1", "localhost"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC)
    ssl.create_default_context(cadata=made.ca_pem)


def test_a_kubeconfig_holds_what_a_client_needs(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("old")
    path.chmod(0o644)
    tls.write_private(path, tls.kubeconfig("https://127.0.0.1:1", "secret", ca_pem="PEM"))
    assert path.stat().st_mode & 0o777 == 0o600
    read = yaml.safe_load(path.read_text())
    (cluster,) = read["clusters"]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:1"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == b"PEM"
    assert read["users"][0]["user"] == {"token": "secret"}
    assert read["contexts"][0]["name"] == read["current-context"]


def test_a_status_is_worded_as_kubernetes_words_it() -> None:
    fault = StatusError(404, "NotFound", 'pods "x" not found', {"name": "x", "kind": "pods"})
    assert orjson.dumps(fault.status()) == (
        b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \\"x\\" not found",'
        b'"reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}'
    )
