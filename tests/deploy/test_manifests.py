"""compose.yaml and kubernetes.yaml match the service."""

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
# Seconds between the supervisor's own limit for its end and the kill.
MARGIN_SECONDS = 5
DEFAULTS = Settings()


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


COMPOSE = documents(ROOT / "compose.yaml")[0]
SERVICES: dict[str, Any] = COMPOSE["services"]
KUBERNETES = {(found["kind"], found["metadata"]["name"]): found for found in documents(DEPLOY / "kubernetes.yaml")}
POD: dict[str, Any] = KUBERNETES["Deployment", "tallystick"]["spec"]["template"]["spec"]
SERVER: dict[str, Any] = POD["containers"][0]
BACKGROUND: dict[str, Any] = KUBERNETES["Deployment", "tallystick-background"]["spec"]["template"]["spec"]
JOB: dict[str, Any] = KUBERNETES["Job", "tallystick-migrate"]["spec"]["template"]["spec"]


def seconds(text: str) -> int:
    """Return a duration of a compose file in seconds."""
    assert text.endswith("s")
    return int(text[:-1])


def substituted(value: str) -> str:
    """Return a value of a compose file with the defaults of its variables filled in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def ports() -> dict[str, int]:
    """Return the pod's named ports."""
    return {port["name"]: port["containerPort"] for port in SERVER["ports"]}


@pytest.mark.parametrize("name", ["server-1", "server-2", "migrate"])
def test_compose_runs_the_image(name: str) -> None:
    """The service accepts its settings and command, and its image is that of the Dockerfile."""
    service = SERVICES[name]
    assert service["build"] == "."
    parser().parse_args(service["command"])
    settings = load({key: substituted(value) for key, value in service["environment"].items()}).settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.database_url.endswith(f"@postgres:5432/{SERVICES['postgres']['environment']['POSTGRES_DB']}")
    assert settings.trusted_proxies == COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]
    # Compose sets no port, so the image's default applies.
    assert f"TALLYSTICK_PORT={DEFAULTS.port}" in DOCKERFILE


def test_compose_gives_time_to_drain() -> None:
    """No service is killed before its own limit, and each starts after the services that it needs."""
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
    """The balancer and Prometheus are given existing servers, at the ports on which these listen."""
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
    """Its Valkey, like the embedded one, evicts only keys with a lifetime when it is full."""
    command = SERVICES["valkey"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == SETTINGS["maxmemory-policy"] == "volatile-lru"


def test_kubernetes_configures_the_service() -> None:
    """
    The service accepts the settings, also those that are commented out until there is a key; secrets are existing
    files.
    """
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
    # The commands are arguments of the image's entry point.
    assert 'ENTRYPOINT ["tallystick"]' in DOCKERFILE
    assert len({pod["containers"][0]["image"] for pod in (POD, JOB, BACKGROUND)}) == 1
    # Only the background pods do background work, and their admin port has to be set.
    assert settings.background is False
    assert BACKGROUND["containers"][0]["args"] == ["background"]
    assert variables["TALLYSTICK_ADMIN_PORT"] == str(DEFAULTS.admin_port)


def test_kubernetes_asks_what_is_answered() -> None:
    """Probes, annotations, Service and policy use the service's paths and ports."""
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
    """A pod gets requests until the endpoints have changed; then the server has the time that it gives its workers."""
    program, pause = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = POD["terminationGracePeriodSeconds"]
    assert grace >= int(pause) + TIMEOUTS.end + MARGIN_SECONDS
    # The pod is known to be ending before it stops listening.
    probe = SERVER["readinessProbe"]
    assert int(pause) > probe["periodSeconds"] * probe["failureThreshold"]
    deployment = KUBERNETES["Deployment", "tallystick"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment


def test_kubernetes_selects_the_pods() -> None:
    """Budget, autoscaler, Service and policy select the pods of the Deployment."""
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
    """Two pods, spread over nodes, do the background work, and only Prometheus can reach them."""
    deployment = KUBERNETES["Deployment", "tallystick-background"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert deployment["selector"]["matchLabels"] == labels
    assert BACKGROUND["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    policy = KUBERNETES["NetworkPolicy", "tallystick-background"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"] == [KUBERNETES["NetworkPolicy", "tallystick"]["spec"]["ingress"][1]]


def pod_specs(found: Any) -> Iterator[dict[str, Any]]:
    """Yield the spec of every pod in a part of a manifest."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for part in found.values():
            yield from pod_specs(part)
    elif isinstance(found, list):
        for part in found:
            yield from pod_specs(part)


def test_no_pod_takes_the_variables_of_services() -> None:
    """
    Every pod switches off service links: otherwise our Service's `TALLYSTICK_PORT=tcp://...` would be taken for a
    setting.
    """
    manifests = [path for pattern in ("*.yaml", "*.yml") for path in DEPLOY.glob(pattern)]
    specs = [spec for path in manifests for document in documents(path) for spec in pod_specs(document)]
    assert len(specs) == 3
    assert [spec.get("enableServiceLinks") for spec in specs] == [False] * 3


@pytest.mark.parametrize("pod", [POD, JOB, BACKGROUND], ids=["server", "migrate", "background"])
def test_kubernetes_gives_no_privilege(pod: dict[str, Any]) -> None:
    """Pods run as the image's user without privileges, write only temporary files, and have limited memory."""
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
