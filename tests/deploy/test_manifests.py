"""compose.yaml and kubernetes.yaml say of the service what is true of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cli import parser
from server.http.router import Router
from server.http.routes import ROUTES
from server.process.embedded.valkey import SETTINGS
from server.process.timeouts import TIMEOUTS
from server.settings import PREFIX, Settings, load
from tests.support.balancer import DEPLOY
from tests.support.service import WEBHOOK_KEY

ROOT = DEPLOY.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Seconds that are left between the supervisor's own bound on its end and whoever would kill it.
MARGIN_SECONDS = 5
DEFAULTS = Settings()


def documents(path: Path) -> list[Any]:
    """Return what a YAML file holds."""
    return list(yaml.safe_load_all(path.read_text()))


COMPOSE = documents(ROOT / "compose.yaml")[0]
SERVICES: dict[str, Any] = COMPOSE["services"]
KUBERNETES = {(found["kind"], found["metadata"]["name"]): found for found in documents(DEPLOY / "kubernetes.yaml")}
POD: dict[str, Any] = KUBERNETES["Deployment", "tallystick"]["spec"]["template"]["spec"]
SERVER: dict[str, Any] = POD["containers"][0]
BACKGROUND: dict[str, Any] = KUBERNETES["Deployment", "tallystick-background"]["spec"]["template"]["spec"]
JOB: dict[str, Any] = KUBERNETES["Job", "tallystick-migrate"]["spec"]["template"]["spec"]


def seconds(text: str) -> int:
    """Return how long a compose file says, in seconds."""
    assert text.endswith("s")
    return int(text[:-1])


def substituted(value: str) -> str:
    """Return a value of a compose file with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def ports() -> dict[str, int]:
    """Return the named ports of the pod."""
    return {port["name"]: port["containerPort"] for port in SERVER["ports"]}


@pytest.mark.parametrize("name", ["server-1", "server-2", "migrate"])
def test_compose_runs_the_image(name: str) -> None:
    """Settings and command are ones that the service knows; the image is that of the Dockerfile."""
    service = SERVICES[name]
    assert service["build"] == "."
    parser().parse_args(service["command"])
    settings = load({key: substituted(value) for key, value in service["environment"].items()}).settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.database_url.endswith(f"@postgres:5432/{SERVICES['postgres']['environment']['POSTGRES_DB']}")
    assert settings.trusted_proxies == COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]
    # No port is set: it is the image's.
    assert f"TALLYSTICK_PORT={DEFAULTS.port}" in DOCKERFILE


def test_compose_gives_time_to_drain() -> None:
    """Nobody is killed before its own bound, and nothing begins before what it needs is there."""
    for name in ("server-1", "server-2"):
        service = SERVICES[name]
        assert seconds(service["stop_grace_period"]) >= TIMEOUTS.end + MARGIN_SECONDS
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    [hard_stop] = re.findall(r"hard-stop-after (\w+)", (DEPLOY / "haproxy.cfg").read_text())
    assert seconds(SERVICES["balancer"]["stop_grace_period"]) >= seconds(hard_stop) + MARGIN_SECONDS
    for name, service in SERVICES.items():
        for other, needed in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            if needed["condition"] == "service_healthy" and "build" not in SERVICES[other]:
                assert "healthcheck" in SERVICES[other], (name, other)
    assert "HEALTHCHECK" in DOCKERFILE


def test_compose_connects_the_parts() -> None:
    """The balancer and Prometheus are told of servers that are there, at ports that these listen on."""
    balancer = SERVICES["balancer"]
    known = set(re.findall(r"BALANCER_[A-Z0-9_]+", (DEPLOY / "haproxy.cfg").read_text()))
    assert set(balancer["environment"]) <= known
    addresses = {balancer["environment"][f"BALANCER_SERVER_{number}"] for number in (1, 2)}
    assert addresses == {f"server-{number}:{DEFAULTS.port}" for number in (1, 2)}
    jobs = {job["job_name"]: job for job in documents(DEPLOY / "prometheus.yml")[0]["scrape_configs"]}
    assert jobs["tallystick"]["static_configs"][0]["targets"] == [f"server-{n}:{DEFAULTS.admin_port}" for n in (1, 2)]
    metrics_port = balancer["environment"]["BALANCER_METRICS"].rpartition(":")[2]
    assert jobs["haproxy"]["static_configs"][0]["targets"] == [f"balancer:{metrics_port}"]
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file(), volume


def test_compose_evicts_no_limits() -> None:
    """Its Valkey, as the embedded one, evicts only what has a lifetime when it is full."""
    command = SERVICES["valkey"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == SETTINGS["maxmemory-policy"] == "volatile-lru"


def test_kubernetes_configures_the_service() -> None:
    """Settings are ones that the service knows, those that wait for a key too; secrets come as files that are there."""
    text = re.sub(r"# (webhook-key|TALLYSTICK_WEBHOOK_KEY_FILE):", r"\1:", (DEPLOY / "kubernetes.yaml").read_text())
    whole = {found["kind"]: found for found in yaml.safe_load_all(text)}
    variables = dict(whole["ConfigMap"]["data"])
    secrets = whole["Secret"]["stringData"]
    assert secrets.pop("webhook-key") == "CHANGE-ME"
    secrets["webhook-key"] = WEBHOOK_KEY
    mount = next(mount["mountPath"] for mount in SERVER["volumeMounts"] if mount["name"] == "secrets")
    for name in [name for name in variables if name.endswith("_FILE")]:
        path = variables.pop(name)
        assert path.startswith(f"{mount}/")
        variables[name.removesuffix("_FILE")] = secrets[path.removeprefix(f"{mount}/")]
    assert all(name.startswith(PREFIX) for name in variables)
    settings = load(variables).settings
    assert settings.webhook_key == WEBHOOK_KEY
    assert "target_session_attrs=read-write" in str(settings.database_url)
    assert settings.admin_host == "0.0.0.0"  # noqa: S104 -- the probes come from outside
    for pod in (POD, JOB, BACKGROUND):
        [container] = pod["containers"]
        parser().parse_args(container["args"])
        assert container["envFrom"] == [{"configMapRef": {"name": "tallystick"}}]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # The commands are arguments: what is run is the image's entry point.
    assert 'ENTRYPOINT ["tallystick"]' in DOCKERFILE
    assert len({pod["containers"][0]["image"] for pod in (POD, JOB, BACKGROUND)}) == 1
    # Background work is done, and in one place only; there the admin port has to be named.
    assert settings.background is False
    assert BACKGROUND["containers"][0]["args"] == ["background"]
    assert variables["TALLYSTICK_ADMIN_PORT"] == str(DEFAULTS.admin_port)


def test_kubernetes_asks_what_is_answered() -> None:
    """Probes, annotations, Service and policy use paths and ports that the service has."""
    assert ports() == {"http": DEFAULTS.port, "admin": DEFAULTS.admin_port}
    assert f"EXPOSE {DEFAULTS.port}" in DOCKERFILE
    expected = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for name, path in expected.items():
        probe = SERVER[name]["httpGet"]
        assert (probe["path"], probe["port"]) == (path, "admin")
        assert Router(ROUTES).find(path) is not None
    [background] = BACKGROUND["containers"]
    assert background["ports"] == [{"name": "admin", "containerPort": DEFAULTS.admin_port}]
    assert {name: background[name]["httpGet"] for name in expected} == {
        name: SERVER[name]["httpGet"] for name in expected
    }
    for name in ("tallystick", "tallystick-background"):
        annotations = KUBERNETES["Deployment", name]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(DEFAULTS.admin_port)
    [port] = KUBERNETES["Service", "tallystick"]["spec"]["ports"]
    assert port["targetPort"] in ports()
    rules = KUBERNETES["NetworkPolicy", "tallystick"]["spec"]["ingress"]
    assert [("from" in rule, rule["ports"]) for rule in rules] == [
        (False, [{"port": "http"}]),
        (True, [{"port": "admin"}]),
    ]


def test_kubernetes_lets_pods_go_in_order() -> None:
    """Requests come until nobody sends any; then the server has all the time that it gives its workers."""
    program, pause = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = POD["terminationGracePeriodSeconds"]
    assert grace >= int(pause) + TIMEOUTS.end + MARGIN_SECONDS
    # The pod is known to be going before it stops listening.
    probe = SERVER["readinessProbe"]
    assert int(pause) > probe["periodSeconds"] * probe["failureThreshold"]
    deployment = KUBERNETES["Deployment", "tallystick"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment


def test_kubernetes_selects_the_pods() -> None:
    """Budget, autoscaler, Service and policy are about the pods of the Deployment."""
    labels = KUBERNETES["Deployment", "tallystick"]["spec"]["template"]["metadata"]["labels"]
    assert KUBERNETES["Deployment", "tallystick"]["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["Service", "tallystick"]["spec"]["selector"] == labels
    assert KUBERNETES["NetworkPolicy", "tallystick"]["spec"]["podSelector"]["matchLabels"] == labels
    budget = KUBERNETES["PodDisruptionBudget", "tallystick"]["spec"]
    assert (budget["selector"]["matchLabels"], budget["maxUnavailable"]) == (labels, 1)
    scaler = KUBERNETES["HorizontalPodAutoscaler", "tallystick"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tallystick"}
    assert 3 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert scaler["metrics"][0]["resource"]["name"] in SERVER["resources"]["requests"]


def test_kubernetes_has_a_leader_and_another() -> None:
    """Two pods do the background work, on two nodes if there are two; nobody but Prometheus reaches them."""
    deployment = KUBERNETES["Deployment", "tallystick-background"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert deployment["selector"]["matchLabels"] == labels
    assert BACKGROUND["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    policy = KUBERNETES["NetworkPolicy", "tallystick-background"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"] == [KUBERNETES["NetworkPolicy", "tallystick"]["spec"]["ingress"][1]]


def pod_specs(found: Any) -> Iterator[dict[str, Any]]:
    """Give every pod's spec in a part of a manifest."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for part in found.values():
            yield from pod_specs(part)
    elif isinstance(found, list):
        for part in found:
            yield from pod_specs(part)


def test_no_pod_takes_the_variables_of_services() -> None:
    """Every pod of every manifest says so: `TALLYSTICK_PORT=tcp://...` of our own Service would be a setting."""
    manifests = [path for pattern in ("*.yaml", "*.yml") for path in DEPLOY.glob(pattern)]
    specs = [spec for path in manifests for document in documents(path) for spec in pod_specs(document)]
    assert len(specs) == 3
    assert [spec.get("enableServiceLinks") for spec in specs] == [False] * 3


@pytest.mark.parametrize("pod", [POD, JOB, BACKGROUND], ids=["server", "migrate", "background"])
def test_kubernetes_gives_no_privilege(pod: dict[str, Any]) -> None:
    """The user is the image's, no privilege is kept, nothing is written but temporary files, memory is bounded."""
    assert f"\nUSER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
