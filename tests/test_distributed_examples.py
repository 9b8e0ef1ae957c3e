"""The files in examples/distributed: read by what reads them, and what they name is there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from actune.cli import COMMANDS, app

FOLDER = Path(__file__).parent.parent / "examples" / "distributed"
LAUNCHED = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", LAUNCHED)
def test_accelerate_reads_each_config_and_its_line_names_it(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.num_processes > 1
    lines = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if "accelerate launch" in line]
    words = shlex.split(lines[0])
    assert words[:3] == ["accelerate", "launch", "--config_file"]
    assert words[3] == f"examples/distributed/{name}.yaml"
    assert words[words.index("actune") + 1] in COMMANDS


def test_the_plugin_of_fsdp_takes_the_config() -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = documents("fsdp2")[0]["fsdp_config"]
    version = config.pop("fsdp_version")
    values = {key.removeprefix("fsdp_"): value for key, value in config.items()}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, **values)
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_configs_have_only_known_keys_and_their_stage(stage: int) -> None:
    from dataclasses import fields

    from accelerate.utils import DeepSpeedPlugin

    config = documents(f"deepspeed_zero{stage}")[0]["deepspeed_config"]
    assert config["zero_stage"] == stage
    assert set(config) <= {field.name for field in fields(DeepSpeedPlugin)}


def serve_is_understood(words: list[str]) -> None:
    command, bound, _ = app().parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "serve"
    assert bound.arguments["how"].engine == "upstream"


def test_the_compose_file_is_whole() -> None:
    [compose] = documents("compose")
    services = compose["services"]
    for name, service in services.items():
        assert {"image", "command", "healthcheck", "volumes"} <= set(service), name
        assert service["healthcheck"]["test"][0] == "CMD"
    front = services["actune"]
    assert all(services[name] for name in front["depends_on"])
    assert {need["condition"] for need in front["depends_on"].values()} == {"service_healthy"}
    urls = front["command"][front["command"].index("--url") + 1].split(",")
    assert [url.removeprefix("http://").split(":")[0] for url in urls] == list(front["depends_on"])
    serve_is_understood(front["command"])


def test_the_kubernetes_manifest_is_whole() -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents("kubernetes")}
    assert set(found) == {(kind, name) for kind in ("Deployment", "Service") for name in ("vllm", "actune")}
    for name in ("vllm", "actune"):
        spec, service = found["Deployment", name]["spec"], found["Service", name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == service["selector"]
        [container] = spec["template"]["spec"]["containers"]
        ports = [port["containerPort"] for port in container["ports"]]
        assert [port["targetPort"] for port in service["ports"]] == ports
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    serve_is_understood(container["args"])


def test_the_kubernetes_manifest_passes_its_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in documents("kubernetes"):
        validate.validate(one, "1.31", strict=True)
