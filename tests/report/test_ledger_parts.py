"""Digests of weights, rules on earlier requests, and the table of a ledger."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_unlearn.report.file_names import LEDGER
from hf_unlearn.report.ledger import broken_links, ledger_rows, note_merged, read_ledger
from hf_unlearn.report.tasks import TASKS, metric_of
from hf_unlearn.report.weights import model_digest, weights_digest
from hf_unlearn.trainer.stopping.rule import Rule, with_worst
from tests.support.tiny import tiny_vit


def test_a_digest_does_not_depend_on_the_files(tmp_path):
    model = tiny_vit()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    whole = weights_digest(tmp_path / "whole")
    assert weights_digest(tmp_path / "shards") == whole
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    model.save_pretrained(tmp_path / "other")
    assert weights_digest(tmp_path / "other") != whole
    assert weights_digest(tmp_path) is None


def test_the_digest_of_a_model_in_memory():
    model = tiny_vit()
    same = copy.deepcopy(model)
    assert model_digest(model) == model_digest(same)
    with torch.no_grad():
        same.classifier.bias[0] += 1e-6
    assert model_digest(model) != model_digest(same)


def test_the_digest_of_an_adapter_covers_its_base(tmp_path):
    tiny_vit().save_pretrained(tmp_path / "base")
    base = type(tiny_vit()).from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["classifier"])).save_pretrained(
        tmp_path / "adapter"
    )
    before = weights_digest(tmp_path / "adapter")
    assert weights_digest(tmp_path / "adapter") == before != weights_digest(tmp_path / "base")
    tiny_vit().save_pretrained(tmp_path / "base")
    assert weights_digest(tmp_path / "adapter") != before


@pytest.mark.parametrize(
    "rule, worst",
    [("earlier_wer < 30", 20.0), ("earlier_wer > 30", 50.0), ("forget_wer > 1", None)],
)
def test_a_rule_on_all_earlier_requests_is_about_the_worst(rule, worst):
    metrics = {"earlier_1_wer": 50.0, "earlier_2_wer": 20.0, "earlier_2_wer_low": 1.0}
    rule = Rule.parse(rule)
    checked = with_worst({**metrics, "forget_wer": 0.0}, [rule])
    assert checked.get("earlier_wer") == worst
    if worst is not None:
        assert rule.holds(checked) and rule.splits(["forget", "earlier_1", "earlier_2"]) == {
            "earlier_1",
            "earlier_2",
        }


def test_a_rule_may_name_one_earlier_request():
    rule = Rule.parse("earlier_1_wer < 30")
    assert rule.splits(["earlier_1", "earlier_11"]) == {"earlier_1"}
    with pytest.raises(ValueError, match="no split of eval_dataset"):
        Rule.parse("earlier_3_wer < 30").splits(["earlier_1"])
    assert metric_of("earlier_12_f1_macro") == metric_of("earlier_f1_macro") == "f1_macro"


def entry(number: int, before: str, after: str, **more) -> dict:
    return {
        "request": number,
        "column": "speaker",
        "ids": [f"{number}" * 16],
        "samples": {"forget": 4},
        "date": "2026-01-02T03:04:05",
        "settings": {"method": "orthograd"},
        "stopped": {"step": 9, "reason": "aborted", "restored_step": 6},
        "weights_before": before,
        "weights_after": after,
        **more,
    }


def test_the_table_says_what_the_last_run_measured():
    checked = {"metric": "wer", "before": 60.0, "after": 55.25, "found": 1, "of": 2}
    entries = [
        entry(1, "a" * 64, "b" * 64),
        entry(2, "b" * 64, "c" * 64),
        entry(3, "d" * 64, "e" * 64, earlier={"1": checked}),
    ]
    rows = ledger_rows(entries, TASKS["speakers"])
    assert rows[1] == [
        "1",
        "2026-01-02",
        "speaker 11111111 (4 samples)",
        "orthograd",
        "step 9: aborted, back to step 6",
        "bbbbbbbb",
        "WER (%) 55.2, before 60.0 (1 of 2 found)",
    ]
    assert [row[-1] for row in rows[2:]] == ["unverified", "this request"]
    assert broken_links(entries) == [3]


def test_a_ledger_with_a_request_missing_is_refused(tmp_path):
    path = tmp_path / LEDGER
    assert read_ledger(path) == []
    path.write_text(json.dumps({"requests": [entry(1, "a", "b"), entry(3, "b", "c")]}))
    with pytest.raises(ValueError, match=r"are numbered \[1, 3\]: something was removed"):
        read_ledger(path)


def test_merging_for_a_push_is_noted(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    note_merged(tmp_path)
    assert not (tmp_path / LEDGER).exists()
    (tmp_path / LEDGER).write_text(json.dumps({"requests": [entry(1, "a", "b")]}))
    note_merged(tmp_path)
    (last,) = read_ledger(tmp_path / LEDGER)
    assert last["weights_after"] == weights_digest(tmp_path) and last["merged_from"] == "b"
