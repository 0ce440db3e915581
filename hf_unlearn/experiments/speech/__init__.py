"""Speech recipes: recognisers and classifiers forget speakers."""
