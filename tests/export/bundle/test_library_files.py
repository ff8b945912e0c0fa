"""Other libraries read a bundle as it is: transformers in Python, transformers.js in JavaScript."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoTokenizer

from q8bert.export.bundle.library_files import special_tokens, tokenizer_configuration
from q8bert.runtime import Classifier
from q8bert.spec.bundle.bundle import open_bundle

TEXTS = ["Good film", "", "a [SEP] bad [CLS] plot [MASK]", "unknown wörds, 中文!", "the clever film " * 30]


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_transformers_gives_the_ids_of_the_classifier(small: Any, task: str) -> None:
    bundle = small.bundle(task, "int8")
    theirs: Any = AutoTokenizer.from_pretrained(bundle)
    pairs = TEXTS[::-1] if task == "STS-B" else None
    ours = Classifier.load(bundle, threads=1).encode(TEXTS, pairs)
    found = theirs(TEXTS, pairs, truncation=True)
    assert set(found) == set(open_bundle(bundle).manifest.input_names)
    for row, ids in enumerate(found["input_ids"]):
        assert ids == ours.input_ids[row].tolist()
    assert theirs.special_tokens_map == json.loads((bundle / "special_tokens_map.json").read_text(encoding="utf-8"))
    assert theirs.pad_token_id == open_bundle(bundle).manifest.pad_token_id


def test_transformers_reads_labels_and_kind_of_problem(small: Any) -> None:
    config: Any = AutoConfig.from_pretrained(small.bundle("SST-2", "int8"))
    assert (config.model_type, config.architectures) == ("bert", ["BertForSequenceClassification"])
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.label2id == {"negative": 0, "positive": 1}
    assert config.problem_type == "single_label_classification"
    config = AutoConfig.from_pretrained(small.bundle("STS-B", "int8"))
    assert (config.problem_type, config.num_labels) == ("regression", 1)
    # the graph gives scores in the units of the data; nobody shall scale them again
    assert not hasattr(config, "target_scale")


def test_the_tokens_of_roberta_are_found_by_what_they_do() -> None:
    tokenizer = Tokenizer(
        models.BPE(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5}, merges=[])
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    assert special_tokens(tokenizer, pad_token_id=1) == {
        "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>",
    }  # fmt: skip


@pytest.mark.parametrize("obey", [True, False])
def test_special_tokens_in_a_text_mean_what_the_bundle_says(small: Any, tmp_path: Path, obey: bool) -> None:
    bundle = open_bundle(small.bundle("SST-2", "int8"))
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    manifest = type(bundle.manifest)(**(vars(bundle.manifest) | {"obey_special_tokens": obey}))
    content = tokenizer_configuration(tokenizer, manifest, special_tokens(tokenizer, pad_token_id=0))
    shutil.copytree(bundle.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    separators = theirs("good [SEP] bad")["input_ids"].count(tokenizer.token_to_id("[SEP]"))
    assert separators == (2 if obey else 1)


JAVASCRIPT = """
const { pipeline, env, AutoTokenizer, AutoModelForSequenceClassification } = require("@huggingface/transformers");
const [root, single, paired] = process.argv.slice(1);
(async () => {
  env.allowRemoteModels = false;
  env.localModelPath = root;
  const classify = await pipeline("text-classification", single, { subfolder: "" });
  const labels = [];
  for (const text of ["a good film", "a bad plot"]) labels.push((await classify(text))[0]);
  const tokenizer = await AutoTokenizer.from_pretrained(paired);
  const model = await AutoModelForSequenceClassification.from_pretrained(paired, { subfolder: "" });
  const inputs = await tokenizer(["a good film"], { text_pair: ["a bad plot"], return_token_type_ids: true });
  const scores = (await model(inputs)).logits.tolist();
  console.log(JSON.stringify({ labels, scores }));
})();
"""


def has_transformers_js() -> bool:
    """Whether Node finds the package, below this folder or in NODE_PATH."""
    node = shutil.which("node")
    command = [node or "", "-e", "require.resolve('@huggingface/transformers')"]
    return node is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not has_transformers_js(), reason="needs Node and the package @huggingface/transformers (NODE_PATH)"
)
def test_transformers_js_predicts_what_the_classifier_predicts(small: Any) -> None:
    single, paired = small.bundle("SST-2", "int8"), small.bundle("STS-B", "int8")
    names = [str(path.relative_to(small.root)) for path in (single, paired)]
    done = subprocess.run(
        ["node", "-e", JAVASCRIPT, f"{small.root}{os.sep}", *names],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = Classifier.load(single, threads=1)(["a good film", "a bad plot"], batch_size=1)
    assert [label["label"] for label in found["labels"]] == [one.label for one in expected]
    scores = [max(one.probabilities.values()) for one in expected if one.probabilities]
    np.testing.assert_allclose([label["score"] for label in found["labels"]], scores, rtol=0, atol=1e-3)
    logits = Classifier.load(paired, threads=1).logits([("a good film", "a bad plot")])
    np.testing.assert_allclose(found["scores"], logits, rtol=0, atol=1e-3)
