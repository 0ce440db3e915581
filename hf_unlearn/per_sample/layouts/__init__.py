"""Where the samples lie in the tensors of a batch: their layout, the rules that carry it from call
to call, and the tracker that applies them."""
