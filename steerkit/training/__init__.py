"""The recipe of the bundled models: tokenizer, supervised training, scorecard."""
