"""The science: datasets, tokenizer, models, metrics and the training loop, in plain PyTorch."""
