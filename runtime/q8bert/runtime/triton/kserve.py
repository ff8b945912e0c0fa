"""A KServe ``InferenceService`` that runs a repository: Triton in a cluster.

https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/triton/torchscript
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from q8bert.runtime.triton.options import GPU, TritonOptions

__all__ = ["KServe", "inference_service", "service_name"]

# names of services become names of hosts: https://datatracker.ietf.org/doc/html/rfc1123
_NO_PART_OF_A_NAME = re.compile(r"[^a-z0-9]+")
_LONGEST_NAME = 53  # KServe puts its own words behind it, and 63 are allowed
_HTTP_PORT = 8080
# what is to be computed is answered within the longest wait and some seconds; then a pod may go
_DRAIN_S, _GRACE_S = 30, 45
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class KServe:
    """What only the user knows of a cluster.

    Attributes:
        storage_uri: Where the repository will stand, as KServe reads it; None where that is not known yet.
        image: The image of Triton with q8bert installed; None where that is not known yet.
    """

    storage_uri: str | None = None
    image: str | None = None


def service_name(text: str) -> str:
    """Return the nearest to a text that can name a service.

    Args:
        text: For example the name of the repository's folder.

    Returns:
        Lower case letters, digits and hyphens, a letter first.
    """
    name = _NO_PART_OF_A_NAME.sub("-", text.lower()).strip("-")
    return (name if name[:1].isalpha() else f"q8bert-{name}")[:_LONGEST_NAME].strip("-")


def inference_service(
    name: str, models: Sequence[str], options: TritonOptions, kserve: KServe, *, model_bytes: int
) -> str:
    """Write the service.

    Args:
        name: The repository's name.
        models: Names of the ensembles, all of which have to be ready.
        options: How they are run, for what they need of a machine.
        kserve: What the user knows of the cluster.
        model_bytes: Bytes of all models.

    Returns:
        YAML; what is to be filled in is marked.
    """
    unknown = []
    if kserve.image is None:
        unknown.append("image: Triton with q8bert installed, see docs/serving.md")
    if kserve.storage_uri is None:
        unknown.append("storageUri: where this folder was copied to")
    limits = {"cpu": str(_cores(options, len(models))), "memory": f"{_memory_mib(options, len(models), model_bytes)}Mi"}
    if options.device == GPU:
        limits["nvidia.com/gpu"] = "1"
    content = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service_name(name)},
        "spec": {
            "predictor": {
                "terminationGracePeriodSeconds": _GRACE_S,
                "model": {
                    "modelFormat": {"name": "triton"},
                    "protocolVersion": "v2",
                    "runtime": "kserve-tritonserver",
                    "image": kserve.image or "q8bert-triton",
                    "storageUri": kserve.storage_uri or f"pvc://models/{name}",
                    "args": [f"--exit-timeout-secs={_DRAIN_S}"],
                    "resources": {"requests": limits, "limits": limits},
                    # the server is ready when all its models are
                    "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": _HTTP_PORT}},
                    "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
                },
                # the steps hand tensors on in shared memory, of which a container has 64 MiB otherwise
                "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}}],
            }
        },
    }
    notes = [f"# fill in {one}" for one in unknown]
    return "\n".join([f"# {', '.join(models)}; written by q8bert triton", *notes, *_yaml(content)]) + "\n"


def _cores(options: TritonOptions, n_models: int) -> int:
    return n_models * ((options.instances * options.threads if options.device != GPU else 1) + options.tokenizers)


def _memory_mib(options: TritonOptions, n_models: int, model_bytes: int) -> int:
    # generous: Python processes with ONNX Runtime, models with what they compute, and all versions that stay loaded
    processes = options.keep * n_models * (options.instances + options.tokenizers + 1)
    return 512 + 128 * processes + 3 * options.keep * options.instances * -(-model_bytes // _MIB)


def _yaml(content: Mapping[str, object], *, indent: str = "") -> Iterator[str]:
    """Yield lines; texts are written as JSON has them, which YAML reads alike."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _yaml(value, indent=f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"
