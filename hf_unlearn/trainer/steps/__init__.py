"""One optimizer step: what the method computes, how far it goes, and whether it is taken."""
