"""The results of a run that forgot the speaker 1089."""

SALT = "pepper"


def metrics(wer):
    return {
        "samples": 9,
        "loss": 0.5,
        "wer": wer,
        "wer_low": wer - 1,
        "wer_high": wer + 2,
        "cer": wer / 2,
    }


RESULTS = {
    "config": {
        "method": "orthograd",
        "alpha": 0.9,
        "output_dir": "out/forget-1089",
        "forget_speakers": ["1089"],
        "retain_speakers": ["19", "26"],
        "per_device_retain_batch_size": 24,
    },
    "data": {
        "seed": 3,
        "utterances": {"forget": 2, "retain": 48, "test": 20},
        "speakers": {"forget": ["1089"], "retain": ["19", "26"], "test": ["19", "26"]},
        "forget_ids": ["1089-134686-0001", "1089-134691-0002"],
        "retain_ids": ["19-198-0001", "26-495-0002"],
    },
    "seed": 3,
    "environment": {
        "python": "3.11",
        "packages": {"torch": "2.10890"},
        "device": "CPU",
        "cpu_threads": 2,
        "platform": "Linux",
        "date": "2026-01-01",
        "commit": "a1089b",
    },
    "original": {"forget": metrics(1.0), "test": metrics(10.0)},
    "unlearned": {"forget": metrics(95.0), "test": metrics(12.345)},
    "retrained": {"forget": metrics(60.0), "test": metrics(9.0)},
    "stopping": {
        "reason": "target reached",
        "step": 40,
        "rule": "forget_wer >= 90",
        "abort_rule": None,
        "value": 95.0,
    },
    "history": [{"step": 10, "check_forget_wer": 50.0}],
    "command": "unlearn.py x.yaml --forget_speakers 1089 --dataset /data/1089/134686 "
    "--learning_rate 1e-4",
}
