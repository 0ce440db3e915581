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
# By how much the run has changed each weight. This must stay private: the published weights minus
# the update still know what was forgotten. Neither Trainer nor this project uploads files with this
# prefix.
UPDATES = "_forget_update.safetensors"
# What a checkpoint stores beyond Trainer's state.
UNLEARN_STATE = "unlearn_state.json"
