"""The names of the files in a run's output folder and in its checkpoints."""

RESULTS = "results.json"
EVALUATION = "evaluation.json"
AUDIT = "audit.json"
# What the model was made to forget, request by request.
LEDGER = "forget_ledger.json"
ARGUMENTS = "training_args.json"
CARD = "README.md"
# The metrics as the Hub's leaderboards read them.
EVALUATION_RESULTS = ".eval_results/unlearning.yaml"
REPORT = "report.html"
PLOT = "forgetting.png"
MISREAD = "misread.png"
# A copy of the best model that the stopping rules have checked.
BEST = "best_checked.safetensors"
# By how much the run has changed each weight. What Trainer and this project upload has no files with
# this prefix. This one must stay private: the published weights minus the update are the weights
# that still know what was forgotten.
SKETCH = "_forget_update.safetensors"
# What a checkpoint stores beyond Trainer's state.
UNLEARN_STATE = "unlearn_state.json"
