import re
from typing import Any

import pytest

from q8bert.runtime.triton.kserve import KServe, inference_service, service_name
from q8bert.runtime.triton.options import TritonOptions

yaml = pytest.importorskip("yaml")

# https://datatracker.ietf.org/doc/html/rfc1123, as Kubernetes asks for it
HOST = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def service(options: TritonOptions | None = None, **known: Any) -> tuple[str, dict[str, Any]]:
    text = inference_service(
        "Reviews_2", ["a", "b"], options or TritonOptions(), KServe(**known), model_bytes=23_000_000
    )
    return text, yaml.safe_load(text)


def test_the_service_runs_triton_on_the_repository() -> None:
    text, content = service(storage_uri='s3://bucket/"x"', image="registry/triton:1")
    assert (content["apiVersion"], content["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert content["metadata"] == {"name": "reviews-2"}
    predictor = content["spec"]["predictor"]
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert (model["storageUri"], model["image"]) == ('s3://bucket/"x"', "registry/triton:1")
    assert model["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    assert model["volumeMounts"][0]["name"] == predictor["volumes"][0]["name"]
    seconds = int(model["args"][0].removeprefix("--exit-timeout-secs="))
    assert predictor["terminationGracePeriodSeconds"] > seconds, "or Kubernetes ends it before it is done"
    assert "fill in" not in text


def test_what_is_not_known_is_marked() -> None:
    text, content = service()
    assert [line for line in text.splitlines() if line.startswith("# fill in")] != []
    assert "image" in text.splitlines()[1]
    assert "storageUri" in text.splitlines()[2]
    assert content["spec"]["predictor"]["model"]["storageUri"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_it_needs_of_a_machine_grows_with_what_was_asked_for(device: str) -> None:
    few, many = (
        service(TritonOptions(device=device, instances=count, threads=2))[1]["spec"]["predictor"]["model"]["resources"]
        for count in (1, 4)
    )
    assert few["requests"] == few["limits"]
    # two models: an instance each of two threads, and a tokenizer each; on a GPU the host only feeds it
    assert (few["limits"]["cpu"], many["limits"]["cpu"]) == (("6", "18") if device == "cpu" else ("4", "4"))
    assert int(many["limits"]["memory"].removesuffix("Mi")) > int(few["limits"]["memory"].removesuffix("Mi"))
    assert few["limits"].get("nvidia.com/gpu") == (None if device == "cpu" else "1")


@pytest.mark.parametrize("name", ["a", "Größe und Form", "9lives", "---", "x" * 200, "a" * 52 + "-b", "ok.then"])
def test_any_folder_has_a_name_that_a_service_can_have(name: str) -> None:
    assert HOST.fullmatch(service_name(name))
    assert len(service_name(name)) <= 53
