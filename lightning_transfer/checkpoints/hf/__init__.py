"""State-dict layouts of the model classes of transformers."""
