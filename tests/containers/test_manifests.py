"""docker/pod.yaml and docker/job.yaml: as Kubernetes' schema has it, and played by podman."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from engine import ROOT, Engine

DOCKER = ROOT / "docker"
HOWTO = ROOT / "docs" / "howto" / "kubernetes.md"
SUCCESS = "Metrics: {'success_rate': 1.0, 'num_episodes': 2}"
OLDEST = "1.29"
_PLAY_SECONDS = 180.0


class Pod(NamedTuple):
    """A manifest that podman plays: its file, and what it calls the pod."""

    engine: Engine
    file: Path
    name: str

    def play(self) -> None:
        self.engine.call("kube", "play", self.file, timeout=_PLAY_SECONDS)

    def status(self, container: str) -> int:
        """Wait for the end of a container and return its exit status."""
        return int(self.engine.call("wait", f"{self.name}-{container}", timeout=_PLAY_SECONDS).stdout)

    def logs(self, container: str) -> str:
        return self.engine.logs(f"{self.name}-{container}")

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the policy's container, whatever its status."""
        return self.engine.call("exec", f"{self.name}-policy", *words, check=False)


@pytest.fixture
def make_pod(
    engine: Engine, unique: Callable[[str], str], policy_image: str, simulator_image: str, tmp_path: Path
) -> Iterator[Callable[[dict[str, Any]], Pod]]:
    """Makes a pod ready to be played, with names of its own and two episodes."""
    if engine.name != "podman":
        pytest.skip("only podman plays manifests without a cluster")
    made: list[Pod] = []

    def make(spec: dict[str, Any]) -> Pod:
        name = unique("pod")
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        for container in spec["containers"]:
            container["image"] = {"policy": policy_image, "simulator": simulator_image}[container["name"]]
            container["args"] = ["2" if word == "20" else word for word in container["args"]]
        text = yaml.safe_dump(manifest)
        for volume in spec["volumes"]:
            if "claimName" not in str(volume) or volume["name"] == "shmbridge-eval":
                text = re.sub(rf"\b{volume['name']}\b", unique("volume"), text)
        file = tmp_path / "pod.yaml"
        file.write_text(text)
        made.append(Pod(engine, file, name))
        return made[-1]

    yield make
    for pod in made:
        engine.call("kube", "down", pod.file, check=False)
        assert pod.name not in engine.call("pod", "ls", "--format", "{{.Name}}").stdout


def read(name: str, change: str | None = None) -> list[Any]:
    """The documents of a manifest, changed by a script of sed."""
    text = (DOCKER / name).read_text(encoding="utf-8")
    if change is not None:
        changed = subprocess.run(["sed", "--expression", change], input=text, capture_output=True, text=True, check=True).stdout
        assert changed != text
        text = changed
    return list(yaml.safe_load_all(text))


def for_podman(volume: str) -> str:
    """The change that the how-to asks for, to another volume."""
    found = re.search(r"sed '(.+)' docker/pod\.yaml", HOWTO.read_text(encoding="utf-8"))
    assert found is not None
    return found[1].replace("shmbridge-shm", volume)


@pytest.mark.parametrize("version", [OLDEST, ""], ids=["oldest", "latest"])
@pytest.mark.parametrize("name", ["pod.yaml", "job.yaml"])
def test_kubernetes_takes_the_manifest(name: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for document in read(name):
        validator.validate(document, version or validator.latest_version(), strict=True)


def test_a_misspelt_key_would_be_found() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    document = read("pod.yaml")[0]
    document["spec"]["containers"][0]["startUpProbe"] = {}
    with pytest.raises(validator.ValidationError):
        validator.validate(document, OLDEST, strict=True)


def test_the_pod_runs_the_evaluation_on_a_tmpfs_and_ends(make_pod: Callable[[dict[str, Any]], Pod], volume: str) -> None:
    pod = make_pod(read("pod.yaml", for_podman(volume))[0]["spec"])
    pod.play()
    assert pod.inside("stat", "--file-system", "--format", "%T", "/dev/shm").stdout.strip() == "tmpfs"
    assert pod.status("simulator") == 0 and SUCCESS in pod.logs("simulator"), pod.logs("simulator")
    assert pod.status("policy") == 0, pod.logs("policy")


def test_doctor_tells_of_a_pod_whose_memory_podman_has_put_on_a_disk(engine: Engine, make_pod: Callable[[dict[str, Any]], Pod]) -> None:
    if not re.search(r"version [34]\.", engine.version):
        pytest.skip("podman 5 knows 'medium: Memory', in its own way")
    spec = read("pod.yaml")[0]["spec"]
    spec["containers"] = [container for container in spec["containers"] if container["name"] == "policy"]
    pod = make_pod(spec)
    pod.play()
    asked = pod.inside("shmbridge", "doctor", "--json")
    assert asked.returncode == 1
    assert [finding["slug"] for finding in json.loads(asked.stdout)["findings"] if finding["level"] == "problem"] == ["disk"]


def test_the_jobs_pod_ends_with_the_runners_status_and_leaves_its_host_to_the_cluster(make_pod: Callable[[dict[str, Any]], Pod], volume: str) -> None:
    spec = read("job.yaml", for_podman(volume))[-1]["spec"]["template"]["spec"]
    (sidecar,) = spec.pop("initContainers")  # podman 4 does not know sidecars, and would wait for its end
    assert sidecar.pop("restartPolicy") == "Always"
    spec["containers"].insert(0, sidecar)
    pod = make_pod(spec)
    pod.play()
    assert pod.status("simulator") == 0 and SUCCESS in pod.logs("simulator"), pod.logs("simulator")
    probe = sidecar["livenessProbe"]["exec"]["command"]
    assert pod.inside(*probe).returncode == 0
