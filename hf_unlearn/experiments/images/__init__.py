"""The image recipe: classifiers forget classes or single images."""
